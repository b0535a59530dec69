"""Semantic segmentation's scores from counted pixels: IoU and accuracy per class, mean IoU, mean and overall accuracy.

Pixels are counted over all images first and divided once, as mmsegmentation's `mean_iou` does: a mean of ratios per
image would be another number.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

#: Pixels counted at a time: bincount makes eight bytes of each.
AT_ONCE = 1 << 22


def confusion(pred: np.ndarray, gt: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """(classes, classes) int64: pixels labelled i and predicted j, of label maps of one shape; `ignore`d ones left out.

    Raises ValueError for shapes that differ and for values that are no class.

    >>> confusion(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 255]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pred, gt = np.asarray(pred), np.asarray(gt)
    if pred.shape != gt.shape:
        raise ValueError(f"predictions {pred.shape} and labels {gt.shape} differ in shape")
    counted = np.zeros(classes * classes, np.int64)
    flat_pred, flat_gt = pred.ravel(), gt.ravel()
    for start in range(0, len(flat_gt), AT_ONCE):
        p, g = flat_pred[start : start + AT_ONCE], flat_gt[start : start + AT_ONCE]
        valid = g != ignore
        p, g = p[valid].astype(np.int64), g[valid].astype(np.int64)
        if len(g) and not (min(p.min(), g.min()) >= 0 and max(p.max(), g.max()) < classes):
            raise ValueError(f"values from {min(p.min(), g.min())} to {max(p.max(), g.max())} are not all of {classes}")
        counted += np.bincount(g * classes + p, minlength=classes * classes)
    return counted.reshape(classes, classes)


def areas(pred: np.ndarray, gt: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """(3, classes) int64 of two label maps of one shape: pixels that agree, are predicted, are labelled, per class.

    Pixels labelled `ignore` are in none of them. Raises ValueError as `confusion` does.
    """
    return areas_of(confusion(pred, gt, classes, ignore))


def areas_of(counted: np.ndarray) -> np.ndarray:
    """A confusion matrix (..., C, C) -> (..., 3, C), as `areas` has it."""
    return np.stack([np.diagonal(counted, axis1=-2, axis2=-1), counted.sum(axis=-2), counted.sum(axis=-1)], axis=-2)


def class_iou(counted: np.ndarray) -> np.ndarray:
    """Areas (..., 3, C) summed over images -> IoU per class (..., C).

    NaN where a class is neither labelled nor predicted; one that is predicted but never labelled has 0.
    """
    intersection, predicted, labelled = np.moveaxis(np.asarray(counted), -2, 0)
    return share(intersection, predicted + labelled - intersection)


def class_accuracy(counted: np.ndarray) -> np.ndarray:
    """Areas (..., 3, C) summed over images -> share of each class's pixels that are right (..., C); NaN without any."""
    intersection, _, labelled = np.moveaxis(np.asarray(counted), -2, 0)
    return share(intersection, labelled)


def scores(counted: np.ndarray) -> dict[str, float]:
    """Areas (3, C) summed over images -> fractions: mIoU and mAcc over the classes that have any, and aAcc.

    NaN where nothing is labelled.

    >>> scores(np.array([[2, 1, 0], [3, 1, 0], [2, 2, 0]]))
    {'mIoU': 0.5833333333333333, 'mAcc': 0.75, 'aAcc': 0.75}
    """
    return {
        "mIoU": float(mean_of(class_iou(counted))),
        "mAcc": float(mean_of(class_accuracy(counted))),
        "aAcc": float(share(counted[0].sum(), counted[2].sum())),
    }


def matched_miou(counted: np.ndarray) -> float:
    """Confusion (C, P) summed over images -> mIoU after the one-to-one matching of predicted classes to labelled ones
    that makes it largest, over all C classes, absent ones counting 0.

    Meant for clusters, whose numbers mean nothing; where the classes are known it can only flatter. (Kuhn 1955; so
    scored by vpariza/open-hummingbird-eval.)

    >>> matched_miou(np.array([[0, 4], [4, 0]]))
    1.0
    """
    labelled, predicted = counted.sum(axis=1), counted.sum(axis=0)
    union = labelled[:, None] + predicted - counted
    iou = np.nan_to_num(share(counted, union))
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return float(iou[rows, columns].sum() / len(counted))


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole of counts of one shape, NaN where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def mean_of(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    known = np.isfinite(values)
    return share(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
