"""Jaccard and boundary F of whole masks, mask by mask: what the fast paths are held to."""

from __future__ import annotations

import numpy as np

from dinobench.metrics.segmentation import _box, _cropped_f, boundary_radius


def jaccard(prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of masks (..., H, W) -> (...) float64; 1 where both are empty.

    Any non-zero value counts as inside. Pixels where `void` (broadcast to the masks) is set count for neither.

    >>> jaccard(np.array([[[1, 1, 0]]]), np.array([[[0, 1, 1]]]))
    array([0.33333333])
    """
    a, b = np.asarray(prediction) != 0, np.asarray(truth) != 0
    if void is not None:
        valid = np.asarray(void) == 0
        a, b = a & valid, b & valid
    union = np.count_nonzero(a | b, axis=(-2, -1))
    intersection = np.count_nonzero(a & b, axis=(-2, -1))
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def boundary_f(prediction: np.ndarray, truth: np.ndarray, radius: int | None = None) -> np.ndarray:
    """Boundary F-measure of masks (..., H, W) -> (...) float64 in 0..1.

    Precision is the share of predicted boundary pixels with a true one within `radius` pixels (a disk; by default
    `boundary_radius` of the image), recall the share of true ones with a predicted one. 1 where neither has a boundary,
    0 where only one has.
    """
    a, b = np.asarray(prediction) != 0, np.asarray(truth) != 0
    if a.shape != b.shape:
        raise ValueError(f"masks of different shapes: {a.shape} and {b.shape}")
    height, width = a.shape[-2:]
    reach = boundary_radius(height, width) if radius is None else radius
    pairs = zip(a.reshape(-1, height, width).view(np.uint8), b.reshape(-1, height, width).view(np.uint8), strict=True)
    return np.array([_pair_f(p, t, reach) for p, t in pairs]).reshape(a.shape[:-2])


def _pair_f(a: np.ndarray, b: np.ndarray, reach: int) -> float:
    box = _box(a, b)
    return 1.0 if box is None else _cropped_f(a[box], b[box], reach)
