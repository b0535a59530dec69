"""ImageNet-R (Hendrycks et al. 2021, arXiv 2006.16241): renditions: art, cartoons, toys."""

from __future__ import annotations

from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.other_tests.other_test import OtherTest
from dinobench.data.other_tests.subset import load_subset
from dinobench.types import ImageClassification

NAMES = ("imagenet-r", "r")
SUMMARY = "<wnid>/*.jpg of 200 classes, as imagenet-r.tar unpacks. Only these classes may be chosen."


def load(path: Path, data: ImageClassification, progress: fingerprint.Progress | None = None) -> OtherTest:
    """Raises UserError for folders of other classes."""
    return load_subset("ImageNet-R", NAMES[0], "imagenet_r_synsets.txt", path, data, progress)
