"""What is known of a model before it is built: each fact with its origin.

Facts come from several places that need not agree: the user's options, what a file says of itself, a `config.json`
beside it, the architecture asked for by name, the shapes of its tensors, the habits of the family it belongs to. They
are told in that order, and the first to tell a fact is believed; `inspect` prints the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dinobench.errors import UserError

#: What a feature may be made of: `--pool`.
POOLS = ("cls", "mean", "cls+mean", "map")
GRID = re.compile(r"(\d{1,5})x(\d{1,5})")  # --grid


@dataclass(frozen=True)
class Told:
    """A fact, and who told it: `--heads`, `the file's args`, `config.json`, `its tensors`, `usual for the width`."""

    value: Any
    origin: str


class ModelSpec:
    """The facts of one model.

    Those that families ask for: `arch` (the name that the file gives itself), `heads`, `activation` (a key of
    `families.family.ACTIVATIONS`), `eps` (of the norms), `grid` ((h, w) in patches), `image_size` ((h, w) in pixels),
    `rope_theta`, `pool` (one of `POOLS`), `mean` and `std` (of the input, per RGB channel on the scale
    0..1), `method`, `model_type` (Hugging Face's name of a family).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._facts: dict[str, Told] = {}

    def tell(self, origin: str, **facts: Any) -> None:
        """Facts from one origin; None is no fact, and what is known already stays."""
        for name, value in facts.items():
            if value is not None:
                self._facts.setdefault(name, Told(value, origin))

    def get(self, name: str) -> Any:
        """The fact, or None."""
        return self._facts[name].value if name in self._facts else None

    def origin(self, name: str) -> str:
        """Who told it; empty where nobody did."""
        return self._facts[name].origin if name in self._facts else ""

    def settle(self, name: str, value: Any, origin: str) -> Any:
        """The fact as told, or else `value` from here on."""
        self.tell(origin, **{name: value})
        return self.get(name)

    def __iter__(self) -> Iterator[tuple[str, Told]]:
        return iter(self._facts.items())


def parse_grid(text: str) -> tuple[int, int]:
    """Height and width in patches, as `--grid` takes them. Raises UserError for what is no grid.

    >>> parse_grid("14x28")
    (14, 28)
    """
    grid = GRID.fullmatch(text)
    if not (grid and int(grid[1]) and int(grid[2])):
        raise UserError(f"--grid {text}: must be height x width in patches, as in --grid 14x28")
    return int(grid[1]), int(grid[2])
