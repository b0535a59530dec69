"""The embedded set for copy detection, as a layout: the word `tiles`."""

from __future__ import annotations

from pathlib import Path

from dinobench.data.embedded.tiles import copies
from dinobench.data.layouts.copydays import Copies

NAME = "tiles"
SUMMARY = (
    "the word `tiles`, no path: 24 tiles of scikit-learn's two sample photos. "
    "Each has a strongly edited copy and one at JPEG quality 3."
)
EMBEDDED = {"tiles": copies}


def recognises(path: Path) -> bool:
    """Never: embedded data have no path."""
    return False


def load(path: Path, name: str) -> Copies:
    """The tiles, whatever the path."""
    return copies(name)
