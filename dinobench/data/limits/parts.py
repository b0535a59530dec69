"""Some items of a data set that has no list of them to shorten: what is left looks like the whole.

Everything here pickles, as the wholes do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from dinobench.data.depth_maps import DepthSplit
from dinobench.data.label_maps import LabelMapSplit
from dinobench.data.masks import Masks, MaskSet
from dinobench.data.pairs.keypoints import KeypointSet, PointPair
from dinobench.data.pairs.views import View, ViewSet


@dataclass(eq=False)
class _SplitPart:
    """Some images of a split that has a map of each, by index; `rows` (n,) int64 ascend."""

    whole: LabelMapSplit | DepthSplit
    rows: np.ndarray

    @property
    def name(self) -> str:
        return self.whole.name

    @cached_property
    def ids(self) -> Sequence[str]:
        return tuple(self.whole.ids[row] for row in self.rows.tolist())

    @cached_property
    def fingerprint(self) -> str:
        chosen = np.ascontiguousarray(self.rows, np.int64).tobytes()
        return hashlib.sha256(self.whole.fingerprint.encode() + chosen).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> Image.Image:
        """The RGB image."""
        return self.whole.load(int(self.rows[index]))


@dataclass(eq=False)
class LabelMapPart(_SplitPart):
    """Some images with a class for every pixel."""

    whole: LabelMapSplit

    @property
    def in_memory(self) -> bool:
        return self.whole.in_memory

    def labels(self, index: int) -> np.ndarray:
        """(H, W) uint8."""
        return self.whole.labels(int(self.rows[index]))


@dataclass(eq=False)
class DepthPart(_SplitPart):
    """Some images with their depth."""

    whole: DepthSplit

    @property
    def clusters(self) -> Sequence[str] | None:
        of_all = self.whole.clusters
        return None if of_all is None else tuple(of_all[row] for row in self.rows.tolist())

    def depth(self, index: int) -> np.ndarray:
        """(H, W) float32 metres."""
        return self.whole.depth(int(self.rows[index]))


@dataclass(frozen=True, eq=False)
class MaskPart:
    """Some images with object masks: those `listed` by kind of mask."""

    whole: MaskSet
    listed: Mapping[str, Sequence[str]]
    name: str
    layout: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    def ids(self, kind: str) -> Sequence[str]:
        """The images that have masks of this kind. Raises what the whole set raises where it has none."""
        return self.listed[kind] if kind in self.listed else self.whole.ids(kind)

    def load(self, image_id: str) -> Image.Image:
        """The decoded RGB image."""
        return self.whole.load(image_id)

    def masks(self, image_id: str, kind: str) -> Masks:
        """Its masks, at the image's size."""
        return self.whole.masks(image_id, kind)


@dataclass(frozen=True, eq=False)
class PairPart:
    """Some pairs of images with keypoints."""

    whole: KeypointSet
    pairs: Sequence[PointPair]
    name: str
    layout: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    def load(self, image_id: str) -> Image.Image:
        """The decoded RGB image."""
        return self.whole.load(image_id)


@dataclass(frozen=True, eq=False)
class ViewPart:
    """Some views of objects; `rows` are theirs in the whole set."""

    whole: ViewSet
    rows: Sequence[int]
    views: Sequence[View]
    name: str
    layout: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The RGB photo, and depth (H, W) float32 in metres."""
        return self.whole.load(self.rows[index])
