"""Scores of points found again: PCK of keypoints in pixels, recall of surface points in metres.

(PCK: Yang and Ramanan 2013, PAMI 35, 2878; on SPair-71k: Min et al. 2019, arXiv 1908.10543. In space: El Banani et al.
2024, arXiv 2404.08636, whose program is mbanani/probe3d.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from dinobench import lazy

with lazy.imports():
    import numpy as np


#: Bounds in degrees of the bins of relative rotation that recall is told by.
ROTATION_BINS = (0, 30, 60, 90, 120)


def correct(ratios: np.ndarray, alpha: float, strict: bool = False) -> np.ndarray:
    """(n,) bool: whether a point is found, from its distance as a share of the threshold's side.

    The side is the longer one of the target's box; a share of exactly `alpha` counts unless `strict`.

    >>> shares = np.array([0.05, 0.1, 0.2])
    >>> correct(shares, 0.1).tolist(), correct(shares, 0.1, strict=True).tolist()
    ([True, True, False], [True, False, False])
    """
    return ratios < alpha if strict else ratios <= alpha


def longer_side(box: np.ndarray) -> float:
    """The longer side of a box (4,) of x1, y1, x2, y2.

    >>> longer_side(np.array([10, 20, 60, 50]))
    50.0
    """
    return float(max(box[2] - box[0], box[3] - box[1]))


def pck(right: np.ndarray, pair: np.ndarray, category: np.ndarray) -> dict[str, float]:
    """Shares of points found, averaged in the four ways in use, as fractions.

    `right` (n,) bool per point, `pair` (n,) and `category` (n,) labels of the pair it belongs to and of that pair.
    "point": over all points. "image": of each pair, then over pairs (the authors of SPair-71k). "class": of the points
    of each class, then over classes (sd-dino, Probe3D). "weighted": the same with classes weighted by their pairs
    (sd-dino). Raises ValueError for no points.

    >>> pck(np.array([1, 0, 1, 1], bool), np.array([0, 0, 0, 1]), np.array(["cat", "cat", "cat", "dog"]))["image"]
    0.8333333333333333
    """
    if not len(right):
        raise ValueError("no points to score")
    right = np.asarray(right, np.float64)
    _, first, by_pair = np.unique(pair, return_index=True, return_inverse=True)
    _, by_class = np.unique(category, return_inverse=True)
    of_class = np.bincount(by_class, weights=right) / np.bincount(by_class)
    return {
        "point": float(right.mean()),
        "image": float((np.bincount(by_pair, weights=right) / np.bincount(by_pair)).mean()),
        "class": float(of_class.mean()),
        "weighted": float(np.average(of_class, weights=np.bincount(by_class[first], minlength=len(of_class)))),
    }


def relative_pose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Poses (4, 4) object to camera of two views -> (4, 4), from the first camera's coordinates to the second's."""
    return second @ np.linalg.inv(first)


def transform(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (n, 3) by a pose (4, 4): R x + t."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def rotation_degrees(pose: np.ndarray) -> float:
    """The angle of a pose's rotation, in degrees from 0 to 180.

    >>> round(rotation_degrees(np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])), 6)
    90.0
    """
    cosine = (np.trace(pose[:3, :3]) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, float(cosine)))))


def space_errors(
    points: np.ndarray, found: np.ndarray, pose: np.ndarray, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n,) in metres and in pixels between surface points and what was taken for them.

    `points` (n, 3) in the first camera's coordinates, `found` (n, 3) in the second's, `pose` (4, 4) from the first to
    the second, `focal` in pixels of the second image. The image's centre cancels out.
    """
    truth = transform(points, pose)
    pixels = (_projected(truth, focal) - _projected(found, focal)) if len(points) else np.zeros((0, 2))
    return np.linalg.norm(truth - found, axis=1), np.linalg.norm(pixels, axis=1)


def _projected(points: np.ndarray, focal: float) -> np.ndarray:
    """(n, 3) -> (n, 2) pixels from the centre; a depth of 1e-9 m at least, as the reference has it."""
    return focal * points[:, :2] / np.maximum(points[:, 2:], 1e-9)


def binned(values: Sequence[float], degrees: Sequence[float], bins: Sequence[float] = ROTATION_BINS) -> list[float]:
    """The mean of `values` (n,) in each bin of `degrees` (n,), lower bound included; NaN for an empty bin.

    >>> binned([1, 0, 1], [0, 10, 30], (0, 30, 60, 90))
    [0.5, 1.0, nan]
    """
    scores, angles = np.asarray(values, float), np.asarray(degrees, float)
    inside = [(angles >= low) & (angles < high) for low, high in itertools.pairwise(bins)]
    return [float(scores[one].mean()) if one.any() else math.nan for one in inside]
