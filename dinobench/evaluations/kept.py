"""What runs of one process after another share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dinobench import lazy
from dinobench.errors import UserError
from dinobench.models.sources.references import kind
from dinobench.results import known_runs, leaderboard
from dinobench.types import Backbone, LoadOptions

with lazy.imports():
    from dinobench.models.loading import load_backbone

T = TypeVar("T")


class Kept:
    """Protocols, data, backbones, the runtime, the leaderboard: made once, by what each is made from.

    Of each kind the last few are kept: a backbone may fill a good part of the memory.

    >>> kept = Kept()
    >>> kept.once("number", 1, lambda: "made"), kept.once("number", 1, lambda: "made again")
    ('made', 'made')
    """

    #: How many of a kind, where not `USUAL`.
    MOST: Mapping[str, int] = {"backbone": 2, "service": 2}
    USUAL = 8

    def __init__(self) -> None:
        self._made: dict[str, dict[Any, Any]] = {}

    def once(self, what: str, key: Any, make: Callable[[], T]) -> T:
        """What `make` returned when it was last asked for by this `key`, as long as it is kept."""
        kept = self._made.setdefault(what, {})
        made: T = kept.pop(key) if key in kept else make()
        kept[key] = made  # the last one used stands last
        for old in [*kept][: -self.MOST.get(what, self.USUAL)]:
            del kept[old]
        return made

    def backbones(
        self, named: Sequence[tuple[str | None, str]], loading: LoadOptions, seed: int, remember: bool
    ) -> list[Backbone]:
        """Those that references lead to, each with the name that it was given or None.

        `remember` what they turned out to be (see `known_runs`). Raises UserError for what cannot be loaded, and for
        two of one name.
        """
        found = []
        for name, spec in named:
            drawn = seed if kind(spec) == "random" or loading.allow_partial else None  # others are the same by any seed
            load = partial(_load, name, spec, loading, seed, remember)
            found.append(self.once("backbone", (name, spec, loading, drawn, os.getcwd()), load))
        _refuse_doubles(found)
        return found

    def has(self, what: str) -> bool:
        """Whether anything of this kind is kept."""
        return bool(self._made.get(what))

    def forget(self, what: str) -> None:
        self._made.pop(what, None)

    def follow(self, folder: Path, now: bool = False) -> None:
        """Bring the leaderboard of a results folder up to date: `now`, or if that is cheap (`Board.refresh`)."""
        board = self.once("board", folder, partial(leaderboard.Board, folder))
        if now:
            board.rebuild()
        else:
            board.refresh()


def _load(name: str | None, spec: str, loading: LoadOptions, seed: int, remember: bool) -> Backbone:
    how = {"name": name, "seed": seed, **vars(loading)}
    sight = known_runs.look(spec, **how) if remember else None
    backbone = load_backbone(spec, **how)
    if sight is not None:
        known_runs.remember(sight, backbone.info, backbone.capabilities)
    return backbone


def _refuse_doubles(backbones: Sequence[Backbone]) -> None:
    names = [b.info.name for b in backbones]
    for name in names:
        paths = [b.info.path for b in backbones if b.info.name == name]
        if len(paths) > 1:
            clash = ", ".join(paths)
            raise UserError(f"{len(paths)} checkpoints called {name!r} ({clash}): name them, as in --ckpt a={paths[0]}")
