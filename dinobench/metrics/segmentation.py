"""Segmentation scores as pure functions: Jaccard J, boundary measure F, DAVIS statistics and attention masks.

J and F are those of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation"
(CVPR 2016), as computed by the public DAVIS 2017 evaluation package. Attention masks follow Figure 4 of Caron et al.
2021 (arXiv 2104.14294).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from dinobench import lazy

with lazy.imports():
    import cv2
    import numpy as np

# Share of the image diagonal within which two boundaries match: `bound_th` of the DAVIS evaluation package.
BOUNDARY_TOLERANCE = 0.008
_Box = tuple[slice, slice]


class Statistics(NamedTuple):
    """A score over the frames of one object: mean, share of frames above .5, first minus last quarter."""

    mean: float
    recall: float
    decay: float


def boundary_radius(height: int, width: int) -> int:
    """Matching distance in pixels for an image of that size.

    >>> boundary_radius(480, 854)
    8
    """
    return math.ceil(BOUNDARY_TOLERANCE * math.hypot(height, width))


def boundary(mask: np.ndarray) -> np.ndarray:
    """One-pixel boundary map of a mask (H, W) -> (H, W) uint8 of 0 and 1, offset half a pixel to the origin.

    A pixel is boundary where it differs from its right, lower or lower-right neighbour; what lies outside the image
    never differs.

    >>> boundary(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 0]], dtype=uint8)
    """
    return _boundary((np.asarray(mask) != 0).astype(np.uint8))


def frame_scores(prediction: np.ndarray, truth: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every object of one frame: label maps (H, W) uint8 -> two arrays (objects,), label 1 first.

    The fast path behind a whole video: everything happens inside the box around both masks of an object.
    """
    reach = boundary_radius(*truth.shape)
    j, f = np.ones(objects), np.ones(objects)
    for k in range(objects):
        a, b = (prediction == k + 1).view(np.uint8), (truth == k + 1).view(np.uint8)
        box = _box(a, b)
        if box is None:
            continue
        a, b = a[box], b[box]
        both = cv2.countNonZero(cv2.bitwise_and(a, b))
        j[k] = both / (cv2.countNonZero(a) + cv2.countNonZero(b) - both)
        f[k] = _cropped_f(a, b, reach)
    return j, f


def statistics(values: np.ndarray) -> Statistics:
    """DAVIS statistics of one object's per-frame scores (n,).

    The quarters for the decay are cut at round(linspace(1, n, 5) + 1e-10) - 1 kept in 8 bits, both ends included, as
    in the evaluation package; the decay is NaN where that leaves a quarter empty (over 256 frames, or none).

    >>> statistics(np.array([1.0, 0.75, 0.25, 0.0]))
    Statistics(mean=0.5, recall=0.5, decay=0.75)
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return Statistics(math.nan, math.nan, math.nan)
    cuts = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64) & 0xFF
    first, last = values[cuts[0] : cuts[1] + 1], values[cuts[3] : cuts[4] + 1]
    decay = float(first.mean() - last.mean()) if len(first) and len(last) else math.nan
    return Statistics(float(values.mean()), float((values > 0.5).mean()), decay)


def kept_mass_masks(attention: np.ndarray, keep: float) -> np.ndarray:
    """Patches that together hold at least `keep` of the attention, fewest first: (..., N) -> (..., N) bool.

    Sorted ascending and normalised to sum 1, a patch is kept when the cumulative mass up to and including it exceeds
    1 - keep (Caron et al. 2021, Figure 4: keep = 0.6).

    >>> kept_mass_masks(np.array([0.1, 0.2, 0.3, 0.4]), 0.6)
    array([False, False,  True,  True])
    """
    order, mass = sorted_mass(attention)
    kept = np.empty(mass.shape, bool)
    np.put_along_axis(kept, order, mass > 1 - keep, axis=-1)
    return kept


def sorted_mass(attention: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending order of the patches and the cumulative normalised mass in that order, each (..., N)."""
    values = np.asarray(attention, dtype=np.float64)
    order = np.argsort(values, axis=-1, kind="stable")
    values = np.take_along_axis(values, order, axis=-1)
    return order, np.cumsum(values / values.sum(axis=-1, keepdims=True), axis=-1)


def _cropped_f(a: np.ndarray, b: np.ndarray, reach: int) -> float:
    """F of two uint8 masks with one value for inside, cropped by `_box`."""
    edge_a, edge_b = _boundary(a), _boundary(b)
    n_a, n_b = cv2.countNonZero(edge_a), cv2.countNonZero(edge_b)
    if not n_a or not n_b:
        return float(n_a == n_b)
    precision, recall = _matched(edge_a, edge_b, reach) / n_a, _matched(edge_b, edge_a, reach) / n_b
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _matched(edge: np.ndarray, other: np.ndarray, reach: int) -> int:
    """How many pixels of `edge` lie within `reach` of one of `other`.

    The disk is a union of rectangles, whose dilations are separable and cheap. The squarest two reach nearly all that
    there is to reach, so the search narrows to the box of what is left unmatched and often ends early.
    """
    left, other = edge, cv2.copyMakeBorder(other, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    for rectangle in _rectangles(reach):
        x, y, width, height = cv2.boundingRect(left)
        left = left[y : y + height, x : x + width]
        other = other[y : y + height + 2 * reach, x : x + width + 2 * reach]
        near = cv2.dilate(other, rectangle)[reach : reach + height, reach : reach + width]
        left = cv2.subtract(left, near)
        if not cv2.countNonZero(left):
            return cv2.countNonZero(edge)
    return cv2.countNonZero(edge) - cv2.countNonZero(left)


@lru_cache(maxsize=32)
def _rectangles(radius: int) -> tuple[np.ndarray, ...]:
    """The rectangles, largest area first, whose union is the disk dx**2 + dy**2 <= radius**2."""
    half_width = [math.isqrt(radius * radius - dy * dy) for dy in range(radius + 1)]
    sizes = [(max(dy for dy in range(radius + 1) if half_width[dy] >= w), w) for w in set(half_width)]
    sizes.sort(key=lambda size: -(2 * size[0] + 1) * (2 * size[1] + 1))
    return tuple(np.ones((2 * h + 1, 2 * w + 1), np.uint8) for h, w in sizes)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """A pixel differs from one of its three neighbours exactly where the 2 x 2 maximum and minimum differ."""
    anchor, border = (0, 0), cv2.BORDER_REPLICATE
    high = cv2.dilate(mask, np.ones((2, 2), np.uint8), anchor=anchor, borderType=border)
    return cv2.subtract(high, cv2.erode(mask, np.ones((2, 2), np.uint8), anchor=anchor, borderType=border))


def _box(a: np.ndarray, b: np.ndarray) -> _Box | None:
    """The rows and columns holding both masks and their boundaries, which reach one pixel up and to the left.

    One empty row and column are kept below and to the right too, so that the crop's edge is no image edge.
    """
    x, y, width, height = cv2.boundingRect(cv2.bitwise_or(a, b))
    if not width:
        return None
    return slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
