"""Pairs of images with the same keypoints in both: what the correspondence protocol scores on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from dinobench.data.pairs import PairSet


@dataclass(frozen=True, eq=False)
class PointPair:
    """Points that two images show, in pixels of the images as they are.

    `source` and `target` name images; `source_points` and `target_points` (K, 2) are x, y of the same keypoints, called
    `names`; `target_box` (4,) is the target object's x1, y1, x2, y2, by which thresholds go; `source_size` and
    `target_size` are (width, height). `viewpoint` says how far the views differ, 0, 1 or 2, where that is known.
    """

    id: str
    category: str
    source: str
    target: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    source_points: np.ndarray
    target_points: np.ndarray
    target_box: np.ndarray
    names: tuple[str, ...]
    viewpoint: int | None = None


class KeypointSet(PairSet, Protocol):
    """Images and pairs of them; the pairs of one category follow each other."""

    @property
    def pairs(self) -> Sequence[PointPair]: ...

    def load(self, image_id: str) -> Image.Image:
        """The decoded RGB image."""
        ...


def some_of_each(pairs: Sequence[PointPair], most: int, seed: int, viewpoint: int | None = None) -> list[int]:
    """Indices of at most `most` pairs of each category, of one `viewpoint` if given, as Probe3D draws them.

    Python's generator is seeded anew for each category and shuffles its pairs, of which the first are taken
    (mbanani/probe3d, evals/datasets/spair.py). There they come in the file system's order, here in that of `pairs`.
    """
    by_category: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        if viewpoint is None or pair.viewpoint == viewpoint:
            by_category.setdefault(pair.category, []).append(index)
    chosen = []
    for indices in by_category.values():
        random.Random(seed).shuffle(indices)
        chosen += sorted(indices[:most])
    return sorted(chosen)
