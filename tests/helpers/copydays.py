"""A small folder of Copydays'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((40, 32), Image.Resampling.BICUBIC)


def folder(root: Path, n: int = 6, blocks=("strong", "jpegqual/3")) -> Path:
    for block in ("original", *blocks):
        (root / block).mkdir(parents=True)
        for i in range(n):
            end = "01" if block == "strong" else "00"
            picture(i).save(root / block / f"{i:04d}{end}.jpg", quality=95 if block == "original" else 30)
    return root
