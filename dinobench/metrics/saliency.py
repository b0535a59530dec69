"""Scores of a predicted foreground against an annotated one, as unsupervised saliency counts them.

(Wang et al. 2022, arXiv 2202.11539; YangtaoWANG95/TokenCut at fed52cd, `unsupervised_saliency_detection/metric.py`.)
"""

from __future__ import annotations

from typing import NamedTuple

from dinobench import lazy

with lazy.imports():
    import numpy as np


#: β² of F, which weighs precision more than recall.
BETA2 = 0.3
#: How many values a soft mask is cut at, of which the one of most Fβ over all images counts (`metrics`).
CUTS = 255


class Saliency(NamedTuple):
    """Of one image, as fractions. F of a mask of two values is the same at every threshold, and so its own maximum."""

    iou: float
    accuracy: float
    max_f: float


def thresholds() -> np.ndarray:
    """(CUTS,) float64: 0, 1/255, ..., 254/255, above which soft masks are cut."""
    return np.arange(0.0, 1.0, 1 / CUTS)


def saliency_scores(mask: np.ndarray, truth: np.ndarray) -> Saliency:
    """Masks (H, W) bool -> IoU, share of equal pixels, and Fβ.

    Precision and recall are 1 where nothing is predicted, or nothing annotated; F is 0 where both are 0. The IoU of
    two empty masks is 1.

    >>> saliency_scores(np.array([[True, True]]), np.array([[False, False]]))
    Saliency(iou=0.0, accuracy=0.0, max_f=0.0)
    """
    shared, predicted, annotated = (int(np.count_nonzero(m)) for m in (mask & truth, mask, truth))
    union = predicted + annotated - shared
    precision = shared / predicted if predicted else 1.0
    recall = shared / annotated if annotated else 1.0
    weighed = BETA2 * precision + recall
    f = (1 + BETA2) * precision * recall / weighed if weighed else 0.0
    return Saliency(shared / union if union else 1.0, float(np.mean(mask == truth)), f)


def soft_scores(soft: np.ndarray, truth: np.ndarray) -> tuple[float, float, np.ndarray]:
    """A soft mask (H, W) and the annotated one, bool -> IoU and accuracy above .5, and Fβ at every threshold (255,).

    Precision and recall as in `saliency_scores`.
    """
    hard = saliency_scores(soft > 0.5, truth)
    passed = np.searchsorted(thresholds(), soft.ravel())  # how many thresholds each pixel is above
    inside = truth.ravel()
    count = CUTS + 1
    # of each threshold the pixels above it, those of them that are right
    predicted, shared = (
        np.bincount(part, minlength=count)[::-1].cumsum()[::-1][1:] for part in (passed, passed[inside])
    )
    annotated = int(inside.sum())
    precision = np.where(predicted > 0, shared / np.maximum(predicted, 1), 1.0)
    recall = shared / annotated if annotated else np.ones(CUTS)
    weighed = BETA2 * precision + recall
    f = np.where(weighed > 0, (1 + BETA2) * precision * recall / np.where(weighed > 0, weighed, 1), 0.0)
    return hard.iou, hard.accuracy, f
