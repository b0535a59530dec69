"""`load_backbone`: from a reference, such as a checkpoint file or a model's name, to one adapter.

The released tools load with missing keys allowed and print a line that nobody reads; users then report the scores of
half-loaded models. Here every backbone tensor must be found and none may be left over, or the file is refused with the
tensors named; `allow_partial` loads all the same and writes what was missing into the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from dinobench.errors import UserError
from dinobench.inputs import ModelInput
from dinobench.models import architecture as archs
from dinobench.models.adapters import ConvBackbone, GenericBackbone, ModuleBackbone, PixelsBackbone, ViTBackbone
from dinobench.models.architecture import Architecture
from dinobench.models.checkpoint import non_finite
from dinobench.models.factory import NamedModel
from dinobench.models.formats import (
    describe_format,
    find_epoch,
)
from dinobench.models.key_mapping import Tensors, weights_digest
from dinobench.models.opening import Opened, open_weights
from dinobench.models.sources.references import default_name, resolve
from dinobench.models.spec import ModelSpec
from dinobench.models.token_adapters import MapBackbone, TokenBackbone
from dinobench.types import CheckpointInfo, LoadOptions

SHOWN = 6  # tensors named in a refusal; the count says how many more there are
MAX_DRAWN_SHARE = 10  # of a partly loaded model: weights for each that the file has,
MIN_DRAWN = 100_000_000  # unless they are no more than those of a ViT-B


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint file holds, whether or not it would be loaded.

    `missing` are canonical names, the other lists the file's own; `ignored` names heads, decoders and the like beside
    the backbone; `keys` is what `--key` can choose, the chosen one first, and empty for a model that came by name;
    `non_finite` tensors hold NaN or infinity. `facts` are what decided the model beside its tensors: (name, value, who
    told it).
    """

    info: CheckpointInfo
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    keys: tuple[str, ...]
    non_finite: tuple[str, ...]
    facts: tuple[tuple[str, Any, str], ...]


def load_backbone(
    spec: str | Path,
    *,
    arch: str | None = None,
    key: str | None = None,
    heads: int | None = None,
    allow_partial: bool = False,
    pool: str | None = None,
    grid: str | None = None,
    trust_repo: bool = False,
    seed: int = 0,
    name: str | None = None,
) -> ModuleBackbone:
    """Load a backbone for evaluation, on the CPU, in eval mode and float32.

    `spec` is a reference of any kind in `dinobench.models.sources.references.FORMS`, such as a checkpoint file of any
    known format, `hf:OWNER/MODEL`, `timm:MODEL` or `random:MODEL` (weights drawn from `seed`; the global generators
    are left alone). `arch`, `key` and `heads` override what a file would be taken for, `grid` ("14x28", height by
    width in patches) that of its positions; `pool` ("cls", "mean", "cls+mean", "map") what the feature is made of;
    `trust_repo` lets `torchhub:` run its repository's code; `name` is how the model is called in tables.

    What had to be assumed, such as a number of heads that nothing tells, is in `backbone.assumed`, a line each, which
    every run says.

    Raises UserError, one line, for anything wrong with the spec or the file.
    """
    source = resolve(str(spec), seed=seed, name=name, trust_repo=trust_repo, pool=pool)
    if isinstance(source, NamedModel):
        return _adapter(source.architecture, source.module, source.info)
    options = LoadOptions(arch=arch, key=key, heads=heads, allow_partial=allow_partial, pool=pool, grid=grid)
    opened = open_weights(source, options, allow_partial)
    _check_complete(opened, allow_partial)
    tensors = _used(opened)
    info = _info(opened, tensors, name, allow_partial)
    backbone = _adapter(opened.architecture, _fill(opened, tensors, seed), info)
    backbone.assumed = _assumed(opened)
    return backbone


def inspect_checkpoint(
    spec: str | Path,
    *,
    arch: str | None = None,
    key: str | None = None,
    heads: int | None = None,
    pool: str | None = None,
    grid: str | None = None,
    trust_repo: bool = False,
    name: str | None = None,
) -> Inspection:
    """What a reference leads to and what would be loaded of it; see `load_backbone`.

    Raises UserError only for one that cannot be read or placed.
    """
    source = resolve(str(spec), name=name, trust_repo=trust_repo, pool=pool)
    if isinstance(source, NamedModel):
        tensors = source.module.state_dict()
        return Inspection(source.info, tuple(tensors), (), (), (), (), tuple(non_finite(tensors)), ())
    opened = open_weights(source, LoadOptions(arch=arch, key=key, heads=heads, pool=pool, grid=grid), partial=True)
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


def _check_complete(opened: Opened, allow_partial: bool) -> None:
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


def _assumed(opened: Opened) -> tuple[str, ...]:
    """A line for a number of heads that nothing tells and no released model of that width settles."""
    if not opened.spec.origin("heads").startswith("assumed"):
        return ()
    return (
        f"{opened.raw.path}: {opened.architecture.heads} attention heads are assumed, 64 numbers each: neither the "
        "file nor a released model of its width says; if it has others, give --heads",
    )


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _used(opened: Opened) -> Tensors:
    """The backbone's own tensors in float32, copied: the file is memory-mapped and may be replaced while we run."""
    tensors = opened.mapped.tensors
    return {n: _float32(tensors[n]) for n in opened.coverage.matched}


def _fill(opened: Opened, tensors: Tensors, seed: int) -> torch.nn.Module:
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
    module = archs.build_computed(opened.architecture)
    # counters of batches, which older files do not have
    counters = {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in module.state_dict().items() if n not in tensors}
    module.load_state_dict(tensors | counters, assign=True)
    return module


def _check_size(opened: Opened) -> None:
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


def _info(opened: Opened, tensors: Tensors, name: str | None, allow_partial: bool) -> CheckpointInfo:
    a, raw = opened.architecture, opened.raw
    return CheckpointInfo(
        name=name or opened.source.name or default_name(raw.path),
        path=opened.source.record or str(raw.path),
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
        image_size=a.grid[0] * a.patch_size if a.patch_size and a.grid[0] == a.grid[1] != 0 else None,
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


def _ignored(opened: Opened) -> tuple[str, ...]:
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
    if architecture.family == "pixels":
        return PixelsBackbone(module, info, None)
    return GenericBackbone(module, info, None)
