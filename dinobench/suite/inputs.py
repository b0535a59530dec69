"""The models and data sets of a plan: each looked up once, read only where it isn't known yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from dinobench import console, lazy
from dinobench.data import load_datasets
from dinobench.errors import UserError
from dinobench.files import keep, recall
from dinobench.hashing import digest
from dinobench.models.sources import references
from dinobench.results import known_runs
from dinobench.results.known_runs import Known
from dinobench.types import LoadOptions

with lazy.imports():
    from dinobench.models import factory
    from dinobench.models.loading import load_backbone

#: Kinds of references whose weights hang on the seed.
SEEDED = ("random",)
#: Where architectures are remembered that there are.
ARCHS = "archs"


def seed_of(reference: str, loading: LoadOptions, seed: int) -> int:
    """`seed` where the weights hang on it: drawn ones, and what is drawn beside a part of a file; else 0."""
    return seed if references.kind(reference) in SEEDED or loading.allow_partial else 0


def check_arch(arch: str) -> None:
    """Raises UserError where no architecture is called so.

    One that is known is remembered: looking it up imports what takes seconds.
    """
    key = digest(arch, version("timm"), version("torchvision"))
    if recall(ARCHS, key) is None:
        factory.check_arch(arch)
        keep(ARCHS, key, arch)


class Inputs:
    """What cells are made of, as far as it can be read; a UserError in its place says why it can't."""

    def __init__(self) -> None:
        self._data: dict[tuple[str, str, tuple[str, ...]], Sequence[Any] | UserError] = {}
        self._models: dict[tuple[str, str, LoadOptions, int], Known | UserError] = {}
        self._read: dict[tuple[str, str, LoadOptions, int], Known | UserError] = {}

    def data(self, spec: str, kind: str, tests: tuple[str, ...]) -> Sequence[Any] | UserError:
        """The data set, or as many as there are tests, as `load_datasets` gives them. Its files are hashed once."""
        key = spec, kind, tests
        if key not in self._data:
            self._data[key] = _or_error(lambda: load_datasets(spec, kind, tests, progress=console.progress))
        return self._data[key]

    def model(self, name: str, reference: str, loading: LoadOptions, seed: int) -> Known | UserError:
        """What the reference leads to. Weights that aren't remembered are read, which remembers them."""
        key = name, reference, loading, seed
        if key not in self._models:
            self._models[key] = _or_error(lambda: self._known(*key))
        return self._models[key]

    def _known(self, name: str, reference: str, loading: LoadOptions, seed: int) -> Known:
        how = {"name": name, "seed": seed, **vars(loading)}
        sight = known_runs.look_again(reference, **how)
        known = None if sight is None else known_runs.stand_in(sight)
        if known is not None and known.capabilities:
            return known
        weights = name, reference, loading, seed_of(reference, loading, seed)
        if weights not in self._read:
            self._read[weights] = _or_error(lambda: _load(name, reference, loading, seed))
        found = self._read[weights]
        if isinstance(found, UserError):
            raise found
        if sight is not None:
            known_runs.remember(sight, found.info, found.capabilities)
        return found


def _load(name: str, reference: str, loading: LoadOptions, seed: int) -> Known:
    references.check(reference)  # before seconds go into importing what reads it
    console.note(f"reading {name} ({reference})")
    backbone = load_backbone(reference, name=name, seed=seed, **vars(loading))
    return Known(backbone.info, backbone.capabilities)


def _or_error(find: Callable[[], Any]) -> Any:
    try:
        return find()
    except UserError as error:
        return error
