"""ImageNet-Sketch (Wang et al. 2019, arXiv 1905.13549): drawings of ImageNet's classes."""

from __future__ import annotations

from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.other_tests.other_test import OtherTest, by_name, class_folders, file_test
from dinobench.types import ImageClassification

NAMES = ("imagenet-sketch", "sketch")
SUMMARY = "<wnid>/*.JPEG of 1,000 classes, as it unpacks. Class folders are called as in train."


def load(path: Path, data: ImageClassification, progress: fingerprint.Progress | None = None) -> OtherTest:
    """Class folders by name."""
    root, ids, names, left_out = class_folders(path)
    right = by_name(data, names)
    return file_test("ImageNet-Sketch", NAMES[0], path, root, ids, right, progress=progress, left_out=left_out)
