"""A small folder of the revisited Oxford and Paris sets."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(64, 48), (48, 64), (100, 75), (70, 41), (99, 75), (64, 48), (71, 40), (40, 90)]


def picture(seed: int, size=(64, 48)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def oxford(root: Path, name: str = "roxford5k", protocol: int = 4, **changes) -> Path:
    """A small set in the benchmark's layout: eight images, two of them queries."""
    folder = root / name
    (folder / "jpg").mkdir(parents=True)
    names = [f"all_souls_{i:06d}" for i in range(len(SIZES))]
    for i, (image, size) in enumerate(zip(names, SIZES, strict=True)):
        picture(i, size).save(folder / "jpg" / f"{image}.jpg", quality=95)
    content = {
        "imlist": names[2:],
        "qimlist": names[:2],
        "gnd": [
            {"bbx": [4.6, 3.0, 60.2, 44.0], "easy": np.array([0, 1]), "hard": np.array([2]), "junk": np.array([3])},
            {"bbx": np.array([0.0, 0, 40, 60]), "easy": [], "hard": [4, 5], "junk": np.array([], dtype=np.float64)},
        ],
    } | changes
    (folder / f"gnd_{name}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return folder
