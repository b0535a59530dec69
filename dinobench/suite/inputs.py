"""The models and data sets of a plan: each looked up once, read only where it isn't known yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dinobench import console, lazy
from dinobench.data import load_datasets
from dinobench.errors import UserError
from dinobench.models.sources import references
from dinobench.results import known_runs
from dinobench.results.known_runs import Known
from dinobench.types import LoadOptions

with lazy.imports():
    from dinobench.models.loading import load_backbone

#: Kinds of references whose weights hang on the seed.
SEEDED = ("random",)


class Inputs:
    """What cells are made of, as far as it can be read; a UserError in its place says why it can't."""

    def __init__(self) -> None:
        self._data: dict[tuple[str, str, tuple[str, ...]], Sequence[Any] | UserError] = {}
        self._models: dict[tuple[str, str, int], Known | UserError] = {}
        self._read: dict[tuple[str, str, int], Known | UserError] = {}

    def data(self, spec: str, kind: str, tests: tuple[str, ...]) -> Sequence[Any] | UserError:
        """The data set, or as many as there are tests, as `load_datasets` gives them. Its files are hashed once."""
        key = spec, kind, tests
        if key not in self._data:
            self._data[key] = _or_error(lambda: load_datasets(spec, kind, tests, progress=console.progress))
        return self._data[key]

    def model(self, name: str, reference: str, seed: int) -> Known | UserError:
        """What the reference leads to. Weights that aren't remembered are read, which remembers them."""
        key = name, reference, seed
        if key not in self._models:
            self._models[key] = _or_error(lambda: self._known(name, reference, seed))
        return self._models[key]

    def _known(self, name: str, reference: str, seed: int) -> Known:
        how = {"name": name, "seed": seed, **vars(LoadOptions())}
        sight = known_runs.look_again(reference, **how)
        known = None if sight is None else known_runs.stand_in(sight)
        if known is not None and known.capabilities:
            return known
        weights = name, reference, seed if references.kind(reference) in SEEDED else 0
        if weights not in self._read:
            self._read[weights] = _or_error(lambda: _load(name, reference, seed))
        found = self._read[weights]
        if isinstance(found, UserError):
            raise found
        if sight is not None:
            known_runs.remember(sight, found.info, found.capabilities)
        return found


def _load(name: str, reference: str, seed: int) -> Known:
    references.check(reference)  # before seconds go into importing what reads it
    console.note(f"reading {name} ({reference})")
    backbone = load_backbone(reference, name=name, seed=seed)
    return Known(backbone.info, backbone.capabilities)


def _or_error(find: Callable[[], Any]) -> Any:
    try:
        return find()
    except UserError as error:
        return error
