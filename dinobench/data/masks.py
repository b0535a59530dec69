"""Images with object masks: what the attention protocol scores on, whatever layout they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from dinobench.errors import UserError

#: Pixels of all masks of one image together, a byte each, that are taken into memory.
MAX_MASK_PIXELS = 5 * 10**8
#: Labels of which no pixel has four neighbours of its label, from which on a map is taken for a smoothed one.
MANY_THIN = 4


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of one image: `masks` (K, H, W) bool, a stable id for each in `ids`, `void` (H, W) bool or None.

    `ids` are labels, category ids or annotation ids; void pixels belong to nothing and count for nothing.
    """

    masks: np.ndarray
    ids: tuple[int, ...]
    void: np.ndarray | None = None


class MaskSet(Protocol):
    """A set of images with masks; the fingerprint is of images and annotations.

    It may have `notes`, texts for the record about what is left out.
    """

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


def require_room(source: object, masks: int, size: tuple[int, int]) -> None:
    """Raises UserError, naming `source`, where so many masks of (height, width) would take too much memory."""
    if (total := masks * size[0] * size[1]) > MAX_MASK_PIXELS:
        raise UserError(
            f"{source}: {masks:,} masks of {size[1]} x {size[0]} pixels are {total:,} pixels, above "
            f"the limit of {MAX_MASK_PIXELS:,}; make the image and its masks smaller"
        )


def from_labels(labels: np.ndarray, void: int = 255, source: object = "the mask") -> Masks:
    """A label map (H, W) uint8, 0 for background and `void` for nothing -> its masks in the order of labels.

    Raises UserError, naming `source`, for a map whose values are shades, as `label_numbers` does.
    """
    numbers = label_numbers(labels, void, source)
    require_room(source, len(numbers), labels.shape)
    unknown = labels == void
    return Masks(labels == numbers[:, None, None], tuple(numbers.tolist()), unknown if unknown.any() else None)


def label_numbers(labels: np.ndarray, void: int = 255, source: object = "the mask") -> np.ndarray:
    """The values besides 0 and `void` of a label map (H, W) uint8, sorted.

    Raises UserError, naming `source`, for a map whose values are not labels but shades, as smoothing and JPEG make
    them: most of its labels lie along edges and have no inside.
    """
    numbers = _present(labels)
    numbers = numbers[(numbers != 0) & (numbers != void)]
    thin = np.setdiff1d(numbers, _present(labels[_inside(labels)])) if len(numbers) >= MANY_THIN else ()
    if len(thin) >= MANY_THIN and 2 * len(thin) > len(numbers):
        raise UserError(
            f"{source}: {len(numbers)} values besides 0 and {void}, of which {len(thin)} "
            f"({', '.join(map(str, thin[:3]))}, …) lie along edges only: shades of a smoothed or compressed mask, not "
            "labels; save it without either, as PNG"
        )
    return numbers


def _present(labels: np.ndarray) -> np.ndarray:
    """The values of a uint8 array, sorted; in parts, because bincount takes eight bytes a pixel."""
    flat = labels.ravel()
    parts = (flat[i : i + (1 << 22)] for i in range(0, len(flat), 1 << 22))
    return np.flatnonzero(sum((np.bincount(part, minlength=256) for part in parts), np.zeros(256, np.int64)))


def _inside(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose four neighbours have their label; what lies beyond the border counts as like it."""
    inside = np.ones(labels.shape, bool)
    for values, alike in ((labels, inside), (labels.T, inside.T)):
        same = values[1:] == values[:-1]
        alike[1:] &= same
        alike[:-1] &= same
    return inside
