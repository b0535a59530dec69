"""The embedded set for retrieval, as a layout: the word `tiles`."""

from __future__ import annotations

from pathlib import Path

from dinobench.data.embedded.tiles import places
from dinobench.data.layouts.landmarks import Landmarks

NAME = "tiles"
SUMMARY = (
    "the word `tiles`, no path: 12 places in scikit-learn's two sample photos. "
    "A query with its box and six views, easy, hard and junk, of each."
)
EMBEDDED = {"tiles": places}


def recognises(path: Path) -> bool:
    """Never: embedded data have no path."""
    return False


def load(path: Path, name: str) -> Landmarks:
    """The tiles, whatever the path."""
    return places(name)
