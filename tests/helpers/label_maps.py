"""Small folders with label maps, in the layouts that are distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dinobench.data.video import label_png

HEIGHT, WIDTH = 24, 32


def write_pair(image: Path, mask: Path, labels: np.ndarray | None = None, seed: int = 0) -> None:
    """A noise image and its map."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(image)
    mask.write_bytes(label_png(halves(1, 2) if labels is None else labels))


def halves(left: int, right: int, void: int | None = None) -> np.ndarray:
    """(HEIGHT, WIDTH) uint8: one label to the left, one to the right, and a column of a third between them."""
    labels = np.full((HEIGHT, WIDTH), left, np.uint8)
    labels[:, WIDTH // 2 :] = right
    if void is not None:
        labels[:, WIDTH // 2] = void
    return labels


def voc_folder(root: Path, train: tuple[str, ...] = ("a", "b"), val: tuple[str, ...] = ("c",)) -> Path:
    """VOCdevkit with classes 0 and 15 and void; without `train` there is no list of it."""
    folder = root / "VOCdevkit" / "VOC2012"
    sets = folder / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for i, name in enumerate((*train, *val)):
        mask = folder / "SegmentationClass" / f"{name}.png"
        write_pair(folder / "JPEGImages" / f"{name}.jpg", mask, halves(0, 15, 255), i)
    if train:
        (sets / "train.txt").write_text("\n".join(train) + "\n")
    (sets / "val.txt").write_text("\n".join(val) + "\n")
    return root / "VOCdevkit"


def add_aug(devkit: Path, names: tuple[str, ...], listed: str | None = None) -> Path:
    """SegmentationClassAug with these, named in the list of that file name if there is one."""
    folder = devkit / "VOC2012"
    for i, name in enumerate(names):
        mask = folder / "SegmentationClassAug" / f"{name}.png"
        write_pair(folder / "JPEGImages" / f"{name}.jpg", mask, halves(0, 7), 100 + i)
    if listed:
        (folder / "ImageSets" / "Segmentation" / listed).write_text("\n".join(names) + "\n")
    return folder
