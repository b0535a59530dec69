"""Views of one object by calibrated cameras, with depth: what the protocol navi scores on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from dinobench.data.pairs import PairSet


@dataclass(frozen=True, eq=False)
class View:
    """One photo: of which object, `pose` (4, 4) float64 from the object's coordinates to the camera's in metres.

    `focal` is the focal length in pixels of an image whose shorter side is `shorter`. x goes right, y down, z away.
    """

    id: str
    object: str
    pose: np.ndarray
    focal: float
    shorter: int


class ViewSet(PairSet, Protocol):
    """Views, those of one object one after the other."""

    @property
    def views(self) -> Sequence[View]: ...

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The RGB photo, and depth (H, W) float32 in metres at its size, 0 where there is no object."""
        ...


class Surface(NamedTuple):
    """A view as a square: pixels (3, size, size) uint8, xyz (size, size, 3) float32 in metres, and its focal length.

    xyz are the camera's coordinates of what each pixel shows; z is 0 where it shows no object.
    """

    pixels: np.ndarray
    xyz: np.ndarray
    focal: float


def surface(image: Image.Image, depth: np.ndarray, view: View, size: int) -> Surface:
    """A view brought to a square around its object, every step by nearest neighbours as in mbanani/probe3d.

    The shorter side becomes `size`, the centre is cut out and given its points in space; of that the object's box, made
    square, is cut out and brought to `size` again.
    """
    pixels, deep = (_centre(array, size) for array in (np.asarray(image), depth))
    focal = view.focal * size / view.shorter
    ray = (np.arange(size, dtype=np.float32) + 0.5 - size / 2) / np.float32(focal)
    xyz: np.ndarray = np.stack([deep * ray[None, :], deep * ray[:, None], deep], axis=-1)
    rows, columns = object_box(deep > 0)
    pixels, xyz = pixels[rows, columns], xyz[rows, columns]
    focal *= size / min(pixels.shape[:2])
    pixels, xyz = (a.take(_nearest(a.shape[0], size), 0).take(_nearest(a.shape[1], size), 1) for a in (pixels, xyz))
    return Surface(np.ascontiguousarray(pixels.transpose(2, 0, 1)), xyz.astype(np.float32), focal)


def _centre(array: np.ndarray, size: int) -> np.ndarray:
    """(H, W, ...) -> (size, size, ...): the shorter side brought to `size` by nearest neighbours, its centre."""
    height, width = array.shape[:2]
    shorter = min(height, width)
    for axis, side in ((0, height), (1, width)):
        length = size if side == shorter else int(size * side / shorter)
        start = round((length - size) / 2)
        array = array.take(_nearest(side, length)[start : start + size], axis=axis)
    return array


def _nearest(side: int, length: int) -> np.ndarray:
    """(length,) int64: the places among `side` that PyTorch takes, whose products are rounded as float32."""
    scale = np.float32(side) / np.float32(length)
    return np.minimum((np.arange(length, dtype=np.float32) * scale).astype(np.int64), side - 1)


def object_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the square around what is marked in a mask (H, W), whose last row and column are cut off.

    The square is centred on the box where it stays within the image, else it ends where the box does, as far as the
    image reaches (mbanani/probe3d, evals/datasets/utils.py). A single marked row and column is the whole image.
    """
    marked = np.argwhere(mask)
    first, last = marked.min(axis=0), marked.max(axis=0)
    box = last - first
    side = int(box.max())
    if not side:
        return slice(None), slice(None)
    lacking = side - box
    start = first - lacking // 2
    if (start < 0).any() or (start + side > mask.shape).any():
        start = np.maximum(first - lacking, 0)
    return slice(int(start[0]), int(start[0]) + side), slice(int(start[1]), int(start[1]) + side)
