"""Boxes against annotated boxes: IoU and CorLoc as unsupervised object discovery counts them.

CorLoc (Deselaers et al. 2010) is the share of images whose one box covers any annotated object well enough; sides are
continuous coordinates, as in valeoai/LOST `datasets.py` and `main_lost.py` at fcedbec.
"""

from __future__ import annotations

from dinobench import lazy

with lazy.imports():
    import numpy as np


#: Added to heights and to the union, so that empty boxes divide by something; valeoai/LOST `datasets.py`, `bbox_iou`.
EPS = 1e-7
#: IoU from which on an object counts as found (PASCAL's criterion; valeoai/LOST `main_lost.py`).
FOUND = 0.5


def box_ious(box: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with boxes (K, 4), each x1, y1, x2, y2 in pixels -> (K,) float64.

    >>> box_ious(np.array([0, 0, 4, 2]), np.array([[0, 0, 2, 2], [4, 0, 6, 2]])).round(3).tolist()
    [0.5, 0.0]
    """
    box, truths = np.asarray(box, np.float64), np.asarray(truths, np.float64).reshape(-1, 4)
    sides = np.minimum(box[2:], truths[:, 2:]) - np.maximum(box[:2], truths[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = _area(box) + _area(truths) - shared + EPS
    return shared / union


def _area(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[..., 2:] - boxes[..., :2] + np.array([0, EPS])
    return sides.prod(axis=-1)


def best_iou(box: np.ndarray, truths: np.ndarray) -> float:
    """The IoU of a box (4,) with the annotated box (K, 4) that it covers best; 0 where there is none.

    >>> best_iou(np.array([0, 0, 4, 2]), np.zeros((0, 4)))
    0.0
    """
    return float(box_ious(box, truths).max(initial=0.0))
