"""A small folder of DAVIS', and ways to spoil a file of it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dinobench.data.video import label_png


def make_davis(root, year="2017", frames=4, objects=2, size=(24, 32)):
    """A small DAVIS folder with one video `cat`."""
    for part in ("JPEGImages", "Annotations"):
        (root / part / "480p" / "cat").mkdir(parents=True)
    (root / "ImageSets" / year).mkdir(parents=True)
    (root / "ImageSets" / year / "val.txt").write_text("cat\n")
    rng = np.random.default_rng(0)
    for i in range(frames):
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(root / "JPEGImages" / "480p" / "cat" / f"{i:05}.jpg")
        labels = np.zeros(size, np.uint8)
        for k in range(objects):
            labels[4 + i : 12 + i, 12 * k : 12 * k + 8] = k + 1 if year == "2017" else 255
        if year == "2017":
            labels[0, :3] = 255
        mask = root / "Annotations" / "480p" / "cat" / f"{i:05}.png"
        mask.write_bytes(label_png(labels)) if year == "2017" else Image.fromarray(labels).save(mask)
    return root


def rgb(path):
    Image.new("RGB", (32, 24)).save(path)


def other_size(path):
    with Image.open(path) as image:
        image.resize((16, 12)).save(path)
