"""Small image files in folders, whole and damaged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(root: Path, names: Iterable[str], side: int = 24, seed: int = 0) -> Path:
    """A picture of its own for every name, in folders as the names say; returns `root`."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng((seed, i)).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def damage(path: Path) -> None:
    """Cut a file off, so that its header is whole and its pixels are not."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
