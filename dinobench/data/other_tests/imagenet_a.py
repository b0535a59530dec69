"""ImageNet-A (Hendrycks et al. 2021, arXiv 1907.07174): natural images that classifiers get wrong."""

from __future__ import annotations

from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.other_tests.other_test import OtherTest
from dinobench.data.other_tests.subset import load_subset
from dinobench.types import ImageClassification

NAMES = ("imagenet-a", "a")
SUMMARY = "<wnid>/*.jpg of 200 classes, as imagenet-a.tar unpacks. Only these classes may be chosen."


def load(path: Path, data: ImageClassification, progress: fingerprint.Progress | None = None) -> OtherTest:
    """Raises UserError for folders of other classes."""
    return load_subset("ImageNet-A", NAMES[0], "imagenet_a_synsets.txt", path, data, progress)
