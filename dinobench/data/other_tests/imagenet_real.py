"""ImageNet-ReaL (Beyer et al. 2020, arXiv 2006.07159): the validation images with all the labels that fit them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.other_tests.other_test import OtherTest, class_numbers, padded, timm_info
from dinobench.data.subsets import Subset
from dinobench.errors import UserError
from dinobench.types import ImageClassification, ImageSplit

NAMES = ("imagenet-real", "real")
SUMMARY = (
    "real.json: for each validation image the classes that are right, by the number in the image's file name. The "
    "images are those that --data is tested on; without a path the labels are those that come with timm."
)
PATHLESS = True
#: ILSVRC2012_val_00000001.JPEG is the first.
NUMBER = re.compile(r"(\d{8})\.\w+$")


def load(path: Path | None, data: ImageClassification, progress: fingerprint.Progress | None = None) -> OtherTest:
    """Images with no label are left out. Raises UserError for a file that holds no such lists, and for other images."""
    file = path or timm_info() / "imagenet_real_labels.json"
    labels = read_labels(file / "real.json" if file.is_dir() else file)
    index = class_numbers(data)
    kept, right = [], []
    for i, name in enumerate(data.test.ids):
        found = NUMBER.search(name)
        if not found or not 1 <= int(found[1]) <= len(labels):
            raise UserError(
                f"--test imagenet-real: {name} of {data.name} is none of ImageNet's validation images, whose names end "
                f"in a number from 1 to {len(labels):,}; give ImageNet as --data"
            )
        if classes := sorted({index[c] for c in labels[int(found[1]) - 1] if c in index}):
            kept.append(i)
            right.append(classes)
    if not kept:
        raise UserError(f"{file}: has no label of {data.name}'s classes for any of its test images")
    without = len(data.test) - len(kept)
    notes = (f"imagenet-real: {without:,} of {len(data.test):,} images left out: no label is right for them",)
    answers = padded(right)
    rows = np.array(kept, np.int64)
    split = Relabelled(data.test, rows, data.test.name, first=answers[:, 0])
    return OtherTest("ImageNet-ReaL", split, None, notes if without else (), answers=answers)


class Relabelled(Subset):
    """Some images of a split under other labels, `first` (n,)."""

    def __init__(self, whole: ImageSplit, indices: np.ndarray, name: str, first: np.ndarray) -> None:
        super().__init__(whole, indices, name)
        self.first = first

    @property
    def labels(self) -> np.ndarray:
        return self.first


def read_labels(file: Path) -> Sequence[Sequence[int]]:
    """The classes of each image. Raises UserError where the file is no list of lists of class numbers."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: no JSON ({error}); download real.json again") from error
    if not isinstance(content, list) or not all(
        isinstance(row, list) and all(type(c) is int and c >= 0 for c in row) for row in content
    ):
        raise UserError(f"{file}: not a list with the class numbers of each image; download real.json again")
    labels: Sequence[Sequence[int]] = content
    return labels
