"""Images with object masks: what the attention protocol scores on, whatever layout they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of one image: `masks` (K, H, W) bool, a stable id for each in `ids`, `void` (H, W) bool or None.

    `ids` are labels, category ids or annotation ids; void pixels belong to nothing and count for nothing.
    """

    masks: np.ndarray
    ids: tuple[int, ...]
    void: np.ndarray | None = None


class MaskSet(Protocol):
    """A set of images with masks; the fingerprint is of images and annotations."""

    name: str
    layout: str
    fingerprint: str

    def ids(self, kind: str) -> Sequence[str]:
        """The images that have masks of this kind ("instances" or "classes"), by stable name."""
        ...

    def load(self, image_id: str) -> Image.Image:
        """The decoded RGB image."""
        ...

    def masks(self, image_id: str, kind: str) -> Masks:
        """Its masks, at the image's size."""
        ...


def from_labels(labels: np.ndarray, void: int = 255) -> Masks:
    """A label map (H, W) uint8, 0 for background and `void` for nothing -> its masks in the order of labels."""
    numbers = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    numbers = numbers[(numbers != 0) & (numbers != void)]
    unknown = labels == void
    return Masks(labels == numbers[:, None, None], tuple(numbers.tolist()), unknown if unknown.any() else None)
