"""From a reference's tensors to the one backbone among them, its architecture, and how far the two agree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch

from dinobench.errors import UserError
from dinobench.models import architecture as archs
from dinobench.models import statements
from dinobench.models.architecture import Architecture, Coverage
from dinobench.models.checkpoint import RawCheckpoint
from dinobench.models.factory import RequestedArch, parse_arch
from dinobench.models.families import FAMILIES, GENERIC
from dinobench.models.families.family import grid_of
from dinobench.models.formats import Candidate, choose, find_candidates, infer_method, under
from dinobench.models.key_mapping import Mapped, Tensors, map_keys, unfold_positions
from dinobench.models.sources.references import Weights
from dinobench.models.spec import ModelSpec, parse_grid
from dinobench.types import LoadOptions

MAX_CANDIDATES = 100  # backbones in one file
WEAK = ("unknown", "supervised")  # labels that what a family sees in the tensors goes before


@dataclass(frozen=True)
class Opened:
    """A reference's tensors, the backbone chosen of them by canonical names, and what it turned out to be."""

    source: Weights
    raw: RawCheckpoint
    chosen: Candidate
    candidates: list[Candidate]
    mapped: Mapped
    architecture: Architecture
    coverage: Coverage
    method: str
    spec: ModelSpec


def open_weights(source: Weights, options: LoadOptions, partial: bool) -> Opened:
    """Read the file, find the backbone in it and compare it with what its architecture needs."""
    raw = source.read()
    shown = str(raw.path)
    spec = statements.gather(raw, _told_by_user(options))
    wanted = _named(options.arch, spec)
    whole = archs.build_empty(wanted.architecture).state_dict() if wanted and wanted.whole else {}
    candidates = _candidates(raw, wanted, options.key, whole, shown)
    chosen = choose(candidates, options.key, shown)
    tensors = under(raw.tensors, chosen, candidates)
    if packed := [n for n, t in tensors.items() if t.is_floating_point() and t.dtype.itemsize == 1]:
        kind = str(tensors[packed[0]].dtype).removeprefix("torch.")
        raise UserError(f"{shown}: {len(packed)} tensors of {kind} ({chosen.prefix}{packed[0]}); save them as float16")
    if wanted and chosen.family.named:
        spec.tell(wanted.origin, variant=wanted.arch)
        wanted, whole = None, {}
    elif wanted:
        wanted.tell(spec)
    method = infer_method(raw.tensors, raw.meta, chosen)
    spec.tell("the file's marks", method=None if method in WEAK else method)
    mapped = _map(tensors, chosen, whole, spec)
    spec.tell("the file's marks", method=method)
    if wanted and wanted.whole:
        grid, rows = wanted.architecture.grid, whole.get("pos_embed")
        if rows is not None and rows.ndim == 3 and rows.shape[1] != grid[0] * grid[1]:
            unfold_positions(mapped)
        at_grid = _at_its_grid(wanted, mapped, whole, spec)
        architecture = at_grid.architecture
        expected = whole if at_grid is wanted else archs.build_empty(architecture).state_dict()
        archs.fit_shapes(expected, mapped)
    else:
        architecture = _infer(mapped, chosen, spec, partial)
        if wanted:
            wanted.check(architecture, shown)
        expected = archs.build_empty(architecture).state_dict()
    coverage = archs.cover(expected, mapped)
    if wanted and wanted.whole and coverage.missing:
        _check_family(wanted, mapped, chosen, spec)
    stated = spec.get("trunk_pool") if architecture.pool else None
    architecture = archs.repool(architecture, options.pool or stated, shown)
    spec.tell("the family's", pool=architecture.pool)
    method = spec.get("method") or "unknown"
    return Opened(source, raw, chosen, candidates, mapped, architecture, coverage, method, spec)


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
    return {
        "--heads": {"heads": options.heads},
        "--grid": {"grid": parse_grid(options.grid) if options.grid else None},
        "--pool": {"pool": options.pool},
    }


def _map(tensors: Tensors, chosen: Candidate, whole: Mapping[str, Any], spec: ModelSpec) -> Mapped:
    """The tensors in the family's canonical form, `whole`'s names kept."""
    family = chosen.family
    mapped = map_keys(tensors, family.canonical, family.own, frozenset(whole))
    # before anything is added up: positions folded in half precision would be rounded once more
    mapped.tensors = {n: _widened(t) for n, t in mapped.tensors.items()}
    with _made_clear(spec):
        family.finish(mapped, spec)
    return mapped


def _candidates(
    raw: RawCheckpoint, wanted: RequestedArch | None, key: str | None, whole: Mapping[str, Any], shown: str
) -> list[Candidate]:
    """Where backbones stand: by the marks of the families, or by the names that `--arch` needs where more of them fit.

    `whole` are the tensors of the model that `--arch` asks for, which a family's rules may lead to.
    """
    candidates = find_candidates(raw.tensors, FAMILIES)
    if wanted and wanted.whole:
        own = find_candidates(raw.tensors, [replace(GENERIC, anchors=wanted.anchors)])
        if own and not (candidates and _sees_more(raw, candidates, own, key, whole)):
            candidates = own
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


def _sees_more(
    raw: RawCheckpoint, found: list[Candidate], own: list[Candidate], key: str | None, whole: Mapping[str, Any]
) -> bool:
    """Whether a family leads to more of `whole` than its own names, or to as much and knows what stands around it."""
    of_family, of_names = _fitting(raw, found, key, whole), _fitting(raw, own, key, whole)
    around = found[0].prefix != own[0].prefix and own[0].prefix.startswith(found[0].prefix)
    return of_family > of_names or (of_family == of_names and around and key is None)


def _fitting(raw: RawCheckpoint, candidates: list[Candidate], key: str | None, whole: Mapping[str, Any]) -> int:
    """How many of `whole` the file has, read as that of `candidates` which `key` names."""
    chosen = choose(candidates, key if any(c.answers(key) for c in candidates if key) else None, "")
    try:
        mapped = _map(under(raw.tensors, chosen, candidates), chosen, whole, ModelSpec(""))
    except UserError:
        return 0
    archs.fit_shapes(whole, mapped)
    return len(archs.cover(whole, mapped).matched)


def _infer(mapped: Mapped, chosen: Candidate, spec: ModelSpec, partial: bool) -> Architecture:
    """The family's reading. Raises UserError, with --arch or --heads as the remedy, where it is unclear."""
    with _made_clear(spec):
        return chosen.family.infer(mapped, spec, partial)


@contextlib.contextmanager
def _made_clear(spec: ModelSpec) -> Iterator[None]:
    """Shapes of which a family makes no sense -> UserError."""
    try:
        yield
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
