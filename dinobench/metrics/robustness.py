"""What robustness and transfer suites report beside top-1: corruption error, mean per class, 11-point precision.

Everything is a fraction, in and out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: AlexNet's error, its mean over the five levels, under the 15 corruptions that mCE is defined over (Hendrycks and
#: Dietterich 2019, arXiv 1903.12261, table 1; per level in hendrycks/robustness), in the paper's order.
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360,
    "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
#: The same under the four that the data set has for validation (hendrycks/robustness), which DINOv3's table takes in.
ALEXNET_EXTRA = {"speckle_noise": 0.845388, "gaussian_blur": 0.787108, "spatter": 0.717512, "saturate": 0.658248}
#: Levels of severity of each corruption.
LEVELS = 5
#: Levels of recall: 0, .1, … 1 (Everingham et al. 2010, IJCV 88, section 4.2).
RECALLS = 11


def corruption_name(name: str) -> str:
    """A corruption as ImageNet-C's folders call it.

    >>> corruption_name("GAUSSIAN_NOISE"), corruption_name("Elastic Transform")
    ('gaussian_noise', 'elastic_transform')
    """
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def mce(acc: Mapping[str, Sequence[float]]) -> float:
    """Mean corruption error over the standard 15: of each the error summed over levels, by AlexNet's.

    `acc`: the accuracies under each corruption at levels 1 to 5, by name in any spelling of case; others than the
    15 are passed over. Raises ValueError where one of them or a level is missing.

    >>> round(mce({name: [1 - error] * 5 for name, error in ALEXNET.items()}), 12)
    1.0
    """
    return _mean_ratio(_five_each(acc), ALEXNET)


def mce_dinov3(acc: Mapping[str, Sequence[float]]) -> float:
    """The same as DINOv3's table has it: over those of all 19 corruptions that are there.

    (facebookresearch/dinov3, dinov3/eval/metrics/imagenet_c.py.) Raises ValueError where none is there or a level is
    missing.
    """
    found = _five_each(acc)
    known = {name: error for name, error in (ALEXNET | ALEXNET_EXTRA).items() if name in found}
    if not known:
        raise ValueError(f"none of the corruptions {', '.join(ALEXNET)} is there")
    return _mean_ratio(found, known)


def _five_each(acc: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    found = {corruption_name(name): np.asarray(levels, np.float64) for name, levels in acc.items()}
    for name, levels in found.items():
        if levels.shape != (LEVELS,):
            raise ValueError(f"{name}: accuracies at {LEVELS} levels are needed, not of shape {levels.shape}")
    return found


def _mean_ratio(acc: Mapping[str, np.ndarray], alexnet: Mapping[str, float]) -> float:
    if missing := [name for name in alexnet if name not in acc]:
        raise ValueError(f"no accuracies under {', '.join(missing)}")
    return float(np.mean([(1 - acc[name]).mean() / error for name, error in alexnet.items()]))


def mean_per_class(pred: np.ndarray, y: np.ndarray) -> float:
    """The mean over the classes that occur in y of the share of their images that is right.

    pred (n,) and y (n,): the class chosen and the true one. Raises ValueError without images.

    >>> mean_per_class(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 1]))
    0.5
    """
    return float((_right(pred, y) * class_weights(y)).mean())


def class_weights(y: np.ndarray) -> np.ndarray:
    """Classes (n,) -> (n,) float64: what each image counts, so that a mean over images is one over the classes there.

    >>> class_weights(np.array(["a", "b", "b", "b"])).round(3).tolist()
    [2.0, 0.667, 0.667, 0.667]
    """
    _, which, count = np.unique(y, return_inverse=True, return_counts=True)
    weights: np.ndarray = len(which) / (len(count) * count[which])
    return weights


def macro_accuracy(pred: np.ndarray, y: np.ndarray) -> float:
    """The same as torchmetrics' macro average has it: a class that y lacks counts as 0 where it was chosen.

    >>> round(macro_accuracy(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 1])), 4)
    0.3333
    """
    classes = len(np.unique(y))
    return mean_per_class(pred, y) * classes / (classes + len(np.setdiff1d(pred, y)))


def _right(pred: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) bool."""
    pred, y = np.asarray(pred), np.asarray(y)
    if pred.shape != y.shape or y.ndim != 1 or not len(y):
        raise ValueError(f"pred and y are one class for each image, at least one; not {pred.shape} and {y.shape}")
    right: np.ndarray = pred == y
    return right


def map11(scores: np.ndarray, y: np.ndarray) -> float:
    """Mean over classes of the 11-point average precision of VOC 2007: the best precision at recall 0, .1, … 1 or more.

    scores (n, classes), y (n, classes) bool or 0 and 1. Equal scores are one threshold. Classes without one positive
    have no recall and are left out. Raises ValueError where that leaves none.

    >>> round(map11(np.array([[0.9], [0.8], [0.7]]), np.array([[1], [0], [1]])), 4)
    0.8485
    """
    return float(_best_precisions(scores, y).mean())


def map11_dinov3(scores: np.ndarray, y: np.ndarray) -> float:
    """The same as DINOv3 computes it: its curve begins with a point of recall 0 and precision 1.

    So recall 0 always counts 1, and a class whose best precision is p gets (1 - p) / 11 more.
    """
    best = _best_precisions(scores, y)
    best[:, 0] = 1
    return float(best.mean())


def _best_precisions(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(classes with a positive, 11): the best precision of a threshold whose recall is at least 0, .1, … 1."""
    scores, truth = np.asarray(scores, np.float64), np.asarray(y) > 0
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ValueError(f"scores and y are both (n, classes), not {scores.shape} and {truth.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    rows = []
    for score, true in zip(scores.T, truth.T, strict=True):
        positives = int(true.sum())
        if not positives:
            continue
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last image of each threshold
        right = np.cumsum(true[order])[ends]
        best = np.maximum.accumulate((right / (ends + 1))[::-1])[::-1]  # over this threshold and lower ones
        # The first threshold with recall >= level, in whole numbers: .3 × 10 is not 3 in floating point.
        wanted = -(-np.arange(RECALLS) * positives // (RECALLS - 1))
        rows.append(best[np.searchsorted(right, wanted)])
    if not rows:
        raise ValueError("no class has a positive: there is no recall to speak of")
    return np.stack(rows)
