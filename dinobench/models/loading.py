"""`load_backbone`: from a checkpoint file, a timm name, a random start or raw pixels to one adapter.

The released tools load with missing keys allowed and print a line that nobody reads; users then report the scores of
half-loaded models. Here every backbone tensor must be found and none may be left over, or the file is refused with the
tensors named; `allow_partial` loads all the same and writes what was missing into the record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from dinobench.errors import UserError
from dinobench.inputs import ModelInput
from dinobench.models import architecture as archs
from dinobench.models import statements
from dinobench.models.adapters import ConvBackbone, GenericBackbone, ModuleBackbone, ViTBackbone
from dinobench.models.architecture import Architecture, Coverage
from dinobench.models.checkpoint import RawCheckpoint, non_finite, read_checkpoint
from dinobench.models.factory import RequestedArch, load_named, load_pixels, parse_arch
from dinobench.models.families import FAMILIES, GENERIC
from dinobench.models.families.family import grid_of
from dinobench.models.formats import (
    Candidate,
    choose,
    describe_format,
    find_candidates,
    find_epoch,
    infer_method,
    under,
)
from dinobench.models.key_mapping import Mapped, Tensors, map_keys, weights_digest
from dinobench.models.spec import ModelSpec
from dinobench.models.token_adapters import MapBackbone, TokenBackbone
from dinobench.types import CheckpointInfo, LoadOptions

SHOWN = 6  # tensors named in a refusal; the count says how many more there are
MAX_DRAWN_SHARE = 10  # of a partly loaded model: weights for each that the file has,
MIN_DRAWN = 100_000_000  # unless they are no more than those of a ViT-B
MAX_CANDIDATES = 100  # backbones in one file
# Stems that say nothing of the model: the folder's name is put before them.
PLAIN_STEMS = ("checkpoint", "last", "model", "latest", "pytorch_model", "weights", "ckpt", "best", "final", "teacher")
WEAK = ("unknown", "supervised")  # labels that what a family sees in the tensors goes before
GRID = re.compile(r"(\d{1,5})x(\d{1,5})")  # --grid


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint file holds, whether or not it would be loaded.

    `missing` are canonical names, the other lists the file's own; `ignored` names heads, decoders and the like beside
    the backbone; `keys` is what `--key` can choose, the chosen one first; `non_finite` tensors hold NaN or infinity.
    `facts` are what decided the model beside its tensors: (name, value, who told it).
    """

    info: CheckpointInfo
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    keys: tuple[str, ...]
    non_finite: tuple[str, ...]
    facts: tuple[tuple[str, Any, str], ...]


@dataclass(frozen=True)
class _Opened:
    raw: RawCheckpoint
    chosen: Candidate
    candidates: list[Candidate]
    mapped: Mapped
    architecture: Architecture
    coverage: Coverage
    method: str
    spec: ModelSpec


def load_backbone(
    spec: str | Path,
    *,
    arch: str | None = None,
    key: str | None = None,
    heads: int | None = None,
    allow_partial: bool = False,
    pool: str | None = None,
    grid: str | None = None,
    seed: int = 0,
    name: str | None = None,
) -> ModuleBackbone:
    """Load a backbone for evaluation, on the CPU, in eval mode and float32.

    `spec` is a checkpoint file of any known format, `timm:MODEL` (pretrained), `random:MODEL` (a timm or torchvision
    model with weights drawn from `seed`; the global generators are left alone), or `pixels[:SIDE]`. `arch`, `key` and
    `heads` override what a file would be taken for, `grid` ("14x28", height by width in patches) that of its positions;
    `pool` ("cls", "mean", "cls+mean", "map") what the feature is made of; `name` is how the model is called in tables.

    Raises UserError, one line, for anything wrong with the spec or the file.
    """
    text = str(spec)
    kind, _, model = text.partition(":")
    if kind in ("timm", "random") and not Path(text).exists():
        named = load_named(kind, model, seed, name, pool)
        return _adapter(named.architecture, named.module, named.info)
    if kind == "pixels" and not Path(text).exists():
        named = load_pixels(model, name)
        return GenericBackbone(named.module, named.info, None)
    options = LoadOptions(arch=arch, key=key, heads=heads, allow_partial=allow_partial, pool=pool, grid=grid)
    opened = _open(Path(spec), options, allow_partial)
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
    pool: str | None = None,
    grid: str | None = None,
    name: str | None = None,
) -> Inspection:
    """What a file holds and what would be loaded of it. Raises UserError only for one that cannot be read or placed."""
    opened = _open(Path(path), LoadOptions(arch=arch, key=key, heads=heads, pool=pool, grid=grid), partial=True)
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
        facts=tuple((name, told.value, told.origin) for name, told in opened.spec),
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


def _open(path: Path, options: LoadOptions, partial: bool) -> _Opened:
    """Read the file, find the backbone in it and compare it with what its architecture needs."""
    raw = read_checkpoint(path)
    shown = str(raw.path)
    spec = statements.gather(raw, _told_by_user(options))
    wanted = _named(options.arch, spec)
    candidates = _candidates(raw, wanted, shown)
    chosen = choose(candidates, options.key, shown)
    tensors = under(raw.tensors, chosen, candidates)
    if packed := [n for n, t in tensors.items() if t.is_floating_point() and t.dtype.itemsize == 1]:
        kind = str(tensors[packed[0]].dtype).removeprefix("torch.")
        raise UserError(f"{shown}: {len(packed)} tensors of {kind} ({chosen.prefix}{packed[0]}); save them as float16")
    if wanted:
        wanted.tell(spec)
    method = infer_method(raw.tensors, raw.meta, chosen)
    spec.tell("the file's marks", method=None if method in WEAK else method)
    whole = archs.build_empty(wanted.architecture).state_dict() if wanted and wanted.whole else {}
    family = chosen.family
    mapped = map_keys(tensors, family.canonical, family.own, frozenset(whole))
    # before anything is added up: positions folded in half precision would be rounded once more
    mapped.tensors = {n: _widened(t) for n, t in mapped.tensors.items()}
    family.finish(mapped, spec)
    spec.tell("the file's marks", method=method)
    if wanted and wanted.whole:
        wanted = _at_its_grid(wanted, mapped, whole, spec)
        architecture = wanted.architecture
        expected = archs.build_empty(architecture).state_dict()
        archs.fit_shapes(expected, mapped)
    else:
        architecture = _infer(mapped, chosen, spec, partial)
        if wanted:
            wanted.check(architecture, shown)
        expected = archs.build_empty(architecture).state_dict()
    coverage = archs.cover(expected, mapped)
    if wanted and wanted.whole and coverage.missing:
        _check_family(wanted, mapped, chosen, spec)
    architecture = archs.repool(architecture, options.pool, shown)
    spec.tell("the family's", pool=architecture.pool)
    method = spec.get("method") or "unknown"
    return _Opened(raw, chosen, candidates, mapped, architecture, coverage, method, spec)


def _named(arch: str | None, spec: ModelSpec) -> RequestedArch | None:
    """The model that the user names, or else a header or `config.json` of timm's, where tensors alone would not do."""
    if arch:
        return parse_arch(arch, "--arch")
    if timm_name := spec.get("timm"):
        return parse_arch(timm_name, spec.origin("timm"))
    stated = spec.get("arch")
    if spec.get("ours") and stated and timm.is_model(stated):
        return parse_arch(stated, spec.origin("arch"))
    return None


def _told_by_user(options: LoadOptions) -> dict[str, Any]:
    """What the options say of the model. Raises UserError for a grid that is none."""
    grid = GRID.fullmatch(options.grid) if options.grid else None
    if options.grid and not (grid and int(grid[1]) and int(grid[2])):
        raise UserError(f"--grid {options.grid}: must be height x width in patches, as in --grid 14x28")
    return {
        "--heads": {"heads": options.heads},
        "--grid": {"grid": (int(grid[1]), int(grid[2])) if grid else None},
        "--pool": {"pool": options.pool},
    }


def _candidates(raw: RawCheckpoint, wanted: RequestedArch | None, shown: str) -> list[Candidate]:
    """Where backbones stand: by the names that `--arch` needs, or by the marks of the families."""
    candidates = []
    if wanted and wanted.whole:
        candidates = find_candidates(raw.tensors, [replace(GENERIC, anchors=wanted.anchors)])
    candidates = candidates or find_candidates(raw.tensors, FAMILIES)
    if not candidates:
        some = ", ".join(list(raw.tensors)[:3])
        raise UserError(f"{shown}: no known backbone among its {len(raw.tensors)} tensors ({some}, ...); give --arch")
    if len(candidates) > MAX_CANDIDATES:
        raise UserError(f"{shown}: holds {len(candidates)} backbones; save the state_dict() of one of them")
    return candidates


def _at_its_grid(wanted: RequestedArch, mapped: Mapped, whole: Mapping[str, Any], spec: ModelSpec) -> RequestedArch:
    """The model asked for, built for the images that the file's position embedding is for."""
    patch, rows = wanted.architecture.patch_size, mapped.tensors.get("pos_embed")
    usual = whole.get("pos_embed")
    if not patch or rows is None or usual is None or rows.ndim != 3 or usual.ndim != 3 or rows.shape == usual.shape:
        return wanted
    prefix = usual.shape[1] - wanted.architecture.grid[0] * wanted.architecture.grid[1]
    h, w = grid_of(rows.shape[1] - prefix, patch, spec)
    return parse_arch(wanted.arch, wanted.origin, (h * patch, w * patch))


def _infer(mapped: Mapped, chosen: Candidate, spec: ModelSpec, partial: bool) -> Architecture:
    """The family's reading. Raises UserError, with --arch or --heads as the remedy, where it is unclear."""
    try:
        return chosen.family.infer(mapped, spec, partial)
    except (LookupError, ValueError, ArithmeticError) as error:
        raise UserError(f"{spec.path}: its architecture is not clear from its tensors ({error}); give --arch") from None


def _check_family(wanted: RequestedArch, mapped: Mapped, chosen: Candidate, spec: ModelSpec) -> None:
    """Raises UserError where the tensors are plainly those of another model than the one asked for."""
    try:
        found = chosen.family.infer(mapped, ModelSpec(spec.path), True)
    except (LookupError, ValueError, ArithmeticError, UserError):
        return  # its coverage will tell
    wanted.check(found, spec.path)


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 2 else tensor


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
            if isinstance(module, VisionTransformer):
                module.init_weights("", needs_reset=False)
        module.load_state_dict(tensors, strict=False)
        return module
    module = archs.build_empty(opened.architecture)
    if archs.has_computed(module):  # tables of positions and the like, which no file holds
        with torch.random.fork_rng(devices=[]):
            module = opened.architecture.build()
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
        image_size=a.grid[0] * a.patch_size if a.patch_size and a.grid[0] == a.grid[1] else None,
        missing=opened.coverage.missing if allow_partial else (),
        unexpected=tuple(opened.chosen.prefix + n for n in opened.coverage.unexpected) if allow_partial else (),
        input=_input(opened.spec),
        pool=None if a.family == "vit" and a.pool == "cls" else a.pool,
    )


def _input(spec: ModelSpec) -> ModelInput | None:
    """How the model takes its images, as told; None where nobody told. Raises UserError for numbers that cannot be."""
    mean, std = spec.get("mean"), spec.get("std")
    if mean is None or std is None:
        return None
    origin = spec.origin("std")
    try:
        return ModelInput(mean, std, origin)
    except ValueError as error:
        raise UserError(f"{spec.path}: its input, by {origin}: {error}; correct it there") from None


def _ignored(opened: _Opened) -> tuple[str, ...]:
    """Tensors set aside by name, and those outside the chosen part of the file."""
    prefix = opened.chosen.prefix
    outside = [n for n in opened.raw.tensors if not n.startswith(prefix)]
    return (*(prefix + n for n in opened.mapped.ignored), *outside)


def _adapter(architecture: Architecture, module: torch.nn.Module, info: CheckpointInfo) -> ModuleBackbone:
    if architecture.family == "vit":
        assert isinstance(module, VisionTransformer)
        return ViTBackbone(module, info, architecture.grid, architecture.pool or "cls")
    if architecture.family == "tokens":
        return TokenBackbone(module, info, architecture.pool or "cls")
    if architecture.family == "maps":
        return MapBackbone(module, info)
    if architecture.family in ("resnet", "convnext"):
        return ConvBackbone(module, info, archs.conv_stride(module))
    return GenericBackbone(module, info, None)
