"""`load_backbone`: from a checkpoint file, a timm name, a random start or raw pixels to one adapter.

The released tools load with missing keys allowed and print a line that nobody reads; users then report the scores of
half-loaded models. Here every backbone tensor must be found and none may be left over, or the file is refused with the
tensors named; `allow_partial` loads all the same and writes what was missing into the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dinobench.errors import UserError
from dinobench.models import architecture as archs
from dinobench.models.adapters import ConvBackbone, GenericBackbone, ModuleBackbone, ViTBackbone
from dinobench.models.architecture import Architecture, Coverage
from dinobench.models.checkpoint import RawCheckpoint, non_finite, read_checkpoint
from dinobench.models.factory import load_named, load_pixels, parse_arch
from dinobench.models.formats import (
    Candidate,
    choose,
    describe_format,
    find_candidates,
    find_epoch,
    find_image_size,
    find_setting,
    infer_method,
    under,
)
from dinobench.models.key_mapping import Mapped, Tensors, map_keys, weights_digest
from dinobench.types import CheckpointInfo

SHOWN = 6  # tensors named in a refusal; the count says how many more there are
MAX_DRAWN_SHARE = 10  # of a partly loaded model: weights for each that the file has,
MIN_DRAWN = 100_000_000  # unless they are no more than those of a ViT-B
MAX_CANDIDATES = 100  # backbones in one file
# Stems that say nothing of the model: the folder's name is put before them.
PLAIN_STEMS = ("checkpoint", "last", "model", "latest", "pytorch_model", "weights", "ckpt", "best", "final", "teacher")
MOCOV3_HEADS = {384: 12}  # facebookresearch/moco-v3 `vits.py`: its ViT-S has 12 heads of 32


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint file holds, whether or not it would be loaded.

    `missing` are canonical names, the other lists the file's own; `ignored` names heads, decoders and the like beside
    the backbone; `keys` is what `--key` can choose, the chosen one first; `non_finite` tensors hold NaN or infinity.
    """

    info: CheckpointInfo
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    keys: tuple[str, ...]
    non_finite: tuple[str, ...]


@dataclass(frozen=True)
class _Opened:
    raw: RawCheckpoint
    chosen: Candidate
    candidates: list[Candidate]
    mapped: Mapped
    architecture: Architecture
    coverage: Coverage
    method: str


def load_backbone(
    spec: str | Path,
    *,
    arch: str | None = None,
    key: str | None = None,
    heads: int | None = None,
    allow_partial: bool = False,
    seed: int = 0,
    name: str | None = None,
) -> ModuleBackbone:
    """Load a backbone for evaluation, on the CPU, in eval mode and float32.

    `spec` is a checkpoint file of any known format, `timm:MODEL` (pretrained), `random:MODEL` (a timm or torchvision
    model with weights drawn from `seed`; the global generators are left alone), or `pixels[:SIDE]`. `arch`, `key` and
    `heads` override what a file would be taken for; `name` is how the model is called in tables.

    Raises UserError, one line, for anything wrong with the spec or the file.
    """
    text = str(spec)
    kind, _, model = text.partition(":")
    if kind in ("timm", "random") and not Path(text).exists():
        named = load_named(kind, model, seed, name)
        return _adapter(named.architecture, named.module, named.info)
    if kind == "pixels" and not Path(text).exists():
        named = load_pixels(model, name)
        return GenericBackbone(named.module, named.info, None)
    opened = _open(Path(spec), arch, key, heads, allow_partial)
    _check_complete(opened, allow_partial)
    tensors = _used(opened)
    info = _info(opened, tensors, name, allow_partial)
    return _adapter(opened.architecture, _fill(opened, tensors, seed), info)


def inspect_checkpoint(
    path: str | Path,
    *,
    arch: str | None = None,
    key: str | None = None,
    heads: int | None = None,
    name: str | None = None,
) -> Inspection:
    """What a file holds and what would be loaded of it. Raises UserError only for one that cannot be read or placed."""
    opened = _open(Path(path), arch, key, heads, partial=True)
    others = [c.label for c in opened.candidates if c != opened.chosen]
    coverage, prefix = opened.coverage, opened.chosen.prefix
    return Inspection(
        info=_info(opened, _used(opened), name, allow_partial=True),
        matched=coverage.matched,
        missing=coverage.missing,
        unexpected=tuple(prefix + n for n in coverage.unexpected),
        ignored=_ignored(opened),
        keys=(opened.chosen.label, *others),
        non_finite=tuple(opened.mapped.names(n) for n in non_finite(opened.mapped.tensors)),
    )


def default_name(path: Path) -> str:
    """A file's stem, with its folder where the stem says nothing.

    >>> default_name(Path("runs/dino_tiny/checkpoint0099.pth")), default_name(Path("dino_s16.pth"))
    ('dino_tiny/checkpoint0099', 'dino_s16')
    >>> default_name(Path("dinov2/model.safetensors.index.json"))
    'dinov2/model'
    """
    stem = path.stem.removesuffix(".index").removesuffix(".safetensors").removesuffix(".bin").removesuffix(".pth")
    word = stem.lower().rstrip("0123456789_-.=")
    plain = word in ("", *PLAIN_STEMS) or stem.lower().startswith("epoch")
    parent = path.absolute().parent.name
    return f"{parent}/{stem}" if plain and parent else stem


def _open(path: Path, arch: str | None, key: str | None, heads: int | None, partial: bool) -> _Opened:
    """Read the file, find the backbone in it and compare it with what its architecture needs."""
    wanted = parse_arch(arch) if arch else None
    raw = read_checkpoint(path)
    shown = str(raw.path)
    candidates = find_candidates(raw.tensors, wanted.anchor if wanted else None)
    if not candidates:
        some = ", ".join(list(raw.tensors)[:3])
        raise UserError(f"{shown}: no known backbone among its {len(raw.tensors)} tensors ({some}, ...); give --arch")
    if len(candidates) > MAX_CANDIDATES:
        raise UserError(f"{shown}: holds {len(candidates)} backbones; save the state_dict() of one of them")
    chosen = choose(candidates, key, shown)
    generic = wanted.architecture if wanted and wanted.anchor else None
    expected = generic.build().state_dict() if generic else {}
    tensors = under(raw.tensors, chosen, candidates)
    if packed := [n for n, t in tensors.items() if t.is_floating_point() and t.dtype.itemsize == 1]:
        kind = str(tensors[packed[0]].dtype).removeprefix("torch.")
        raise UserError(f"{shown}: {len(packed)} tensors of {kind} ({chosen.prefix}{packed[0]}); save them as float16")
    mapped = map_keys(tensors, chosen.layout, frozenset(expected))
    method = infer_method(raw.tensors, raw.meta, chosen)
    if generic:
        architecture = generic
    else:
        given = heads or (wanted.architecture.heads if wanted else None) or _file_heads(raw, mapped, method)
        stated = find_setting(raw.meta, "arch")
        stated = stated if isinstance(stated, str) else None
        architecture = archs.infer(mapped, chosen.layout, shown, given, stated, partial)
        _check_square(raw, architecture)
        if wanted:
            wanted.check(architecture, shown)
        expected = archs.build_empty(architecture).state_dict()
    return _Opened(raw, chosen, candidates, mapped, architecture, archs.cover(expected, mapped), method)


def _check_square(raw: RawCheckpoint, architecture: Architecture) -> None:
    """A grid of 32 x 8 has as many rows as one of 16 x 16: where the file states unequal sides, they are believed."""
    stated, patch = find_image_size(raw.meta), architecture.patch_size
    if stated and stated[0] != stated[1] and patch:
        rows = (stated[0] // patch) * (stated[1] // patch)
        if rows == architecture.grid[0] * architecture.grid[1]:
            raise archs.not_square(str(raw.path), rows)


def _file_heads(raw: RawCheckpoint, mapped: Mapped, method: str) -> int | None:
    """Heads as the file states them (`heads` or `num_heads`, also in its args), or as MoCo v3 has them."""
    stated = find_setting(raw.meta, "num_heads", "heads")
    if type(stated) is int and stated > 0:
        return stated
    projection = mapped.tensors.get("patch_embed.proj.weight")
    return MOCOV3_HEADS.get(projection.shape[0]) if method == "mocov3" and projection is not None else None


def _check_complete(opened: _Opened, allow_partial: bool) -> None:
    """Raises UserError when tensors are missing or left over (unless allowed), or are not finite."""
    path, coverage, prefix = opened.raw.path, opened.coverage, opened.chosen.prefix
    if not allow_partial and (coverage.missing or coverage.unexpected):
        parts = []
        if coverage.missing:
            parts.append(f"{len(coverage.missing)} backbone tensors missing ({_some(coverage.missing)})")
        if coverage.unexpected:
            parts.append(f"{len(coverage.unexpected)} left over ({_some([prefix + n for n in coverage.unexpected])})")
        remedy = "give the right file, --key or --arch, or load it all the same with --allow-partial"
        raise UserError(f"{path}: taken for {opened.architecture.arch}, but {' and '.join(parts)}; {remedy}")
    if not coverage.matched:
        raise UserError(f"{path}: not one tensor of a {opened.architecture.arch} in it; give the right --arch")
    if broken := non_finite(opened.mapped.tensors):
        names = _some([prefix + opened.mapped.names(n) for n in broken])
        raise UserError(f"{path}: NaN or infinity in {len(broken)} tensors ({names}); use an earlier checkpoint")


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _used(opened: _Opened) -> Tensors:
    """The backbone's own tensors in float32, copied: the file is memory-mapped and may be replaced while we run."""
    tensors = opened.mapped.tensors
    return {n: _float32(tensors[n]) for n in opened.coverage.matched}


def _fill(opened: _Opened, tensors: Tensors, seed: int) -> torch.nn.Module:
    """The module with `tensors`. What a partly loaded model lacks is drawn from `seed`, as in a random start."""
    if opened.coverage.missing:
        _check_size(opened)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = opened.architecture.build()
            if isinstance(module, archs.VisionTransformer):
                module.init_weights("", needs_reset=False)
        module.load_state_dict(tensors, strict=False)
        return module
    module = archs.build_empty(opened.architecture)
    # counters of batches, which older files do not have
    counters = {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in module.state_dict().items() if n not in tensors}
    module.load_state_dict(tensors | counters, assign=True)
    return module


def _check_size(opened: _Opened) -> None:
    """Raises UserError for a model of which next to nothing is there: one absurd shape would take all memory."""
    sizes = {n: t.numel() for n, t in archs.build_empty(opened.architecture).state_dict().items()}
    found, whole = sum(sizes[n] for n in opened.coverage.matched), sum(sizes.values())
    if whole > max(MAX_DRAWN_SHARE * found, MIN_DRAWN):
        raise UserError(
            f"{opened.raw.path}: holds {found} of the {whole} weights of a {opened.architecture.arch}; "
            "give the right --arch"
        )


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()


def _info(opened: _Opened, tensors: Tensors, name: str | None, allow_partial: bool) -> CheckpointInfo:
    a, raw = opened.architecture, opened.raw
    return CheckpointInfo(
        name=name or default_name(raw.path),
        path=str(raw.path),
        sha256=raw.sha256,
        weights_digest=weights_digest(tensors, a.settings),
        format=describe_format(opened.chosen, raw.meta, opened.method, raw.container),
        key=opened.chosen.prefix.rstrip("."),
        arch=a.arch,
        patch_size=a.patch_size,
        embed_dim=a.embed_dim,
        depth=a.depth,
        heads=a.heads,
        registers=a.registers,
        method=opened.method,
        epoch=find_epoch(raw.meta),
        image_size=a.grid[0] * a.patch_size if a.patch_size else None,
        missing=opened.coverage.missing if allow_partial else (),
        unexpected=tuple(opened.chosen.prefix + n for n in opened.coverage.unexpected) if allow_partial else (),
    )


def _ignored(opened: _Opened) -> tuple[str, ...]:
    """Tensors set aside by name, and those outside the chosen part of the file."""
    prefix = opened.chosen.prefix
    outside = [n for n in opened.raw.tensors if not n.startswith(prefix)]
    return (*(prefix + n for n in opened.mapped.ignored), *outside)


def _adapter(architecture: Architecture, module: torch.nn.Module, info: CheckpointInfo) -> ModuleBackbone:
    if architecture.family == "vit":
        assert isinstance(module, archs.VisionTransformer)
        return ViTBackbone(module, info, architecture.grid)
    if architecture.family in ("resnet", "convnext"):
        return ConvBackbone(module, info, archs.conv_stride(module))
    return GenericBackbone(module, info, None)
