"""What robustness and transfer suites report beside top-1: corruption error, mean per class, 11-point precision.

Everything is a fraction, in and out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: AlexNet's error, its mean over the five levels, under the 15 corruptions that mCE is defined over (Hendrycks and
#: Dietterich 2019, arXiv 1903.12261, table 1; per level in the table "AlexNet ImageNet-C Error" of the README that
#: hendrycks/robustness had until 2020, and in dinov3/eval/metrics/imagenet_c.py), in the paper's order.
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360,
    "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
#: The same, from the same tables, under the four that the data set has for validation, which DINOv3's table takes in.
ALEXNET_EXTRA = {"speckle_noise": 0.845388, "gaussian_blur": 0.787108, "spatter": 0.717512, "saturate": 0.658248}
#: Levels of severity of each corruption.
LEVELS = 5
#: Levels of recall: 0, .1, … 1 (Everingham et al. 2010, IJCV 88, section 4.2).
RECALLS = 11
#: Resamples that are computed together; of 5,000 images they take a few tens of MB.
TOGETHER = 50


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


def map11(scores: np.ndarray, y: np.ndarray, counted: np.ndarray | None = None) -> float:
    """Mean over classes of the 11-point average precision of VOC 2007: the best precision at recall 0, .1, … 1 or more.

    scores (n, classes), y (n, classes) bool or 0 and 1; an image counts for a class where `counted` (n, classes) bool
    says so, or always. Equal scores are one threshold. Classes without one positive have no recall and are left out.
    Raises ValueError where that leaves none.

    >>> round(map11(np.array([[0.9], [0.8], [0.7]]), np.array([[1], [0], [1]])), 4)
    0.8485
    """
    return float(np.nanmean(best_precisions(scores, y, counted)))


def map11_dinov3(scores: np.ndarray, y: np.ndarray, counted: np.ndarray | None = None) -> float:
    """The same as DINOv3 computes it: its curve begins with a point of recall 0 and precision 1.

    So recall 0 always counts 1, and a class whose best precision is p gets (1 - p) / 11 more.
    """
    return float(np.nanmean(from_one(best_precisions(scores, y, counted))))


def from_one(best: np.ndarray) -> np.ndarray:
    """Precisions (..., 11) as `best_precisions` has them -> as DINOv3 has them: 1 at recall 0, where there is one."""
    best = best.copy()
    best[..., 0] = np.where(np.isnan(best[..., 0]), np.nan, 1)
    return best


def best_precisions(scores: np.ndarray, y: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """(classes, 11): the best precision of a threshold whose recall is at least 0, .1, … 1; NaN without a positive."""
    curves = _curves(scores, y, counted)
    once = np.ones((1, len(scores)), np.int64)
    found = np.stack([_resampled(curve, once)[0] for curve in curves])
    if np.isnan(found).all():
        raise ValueError("no class has a positive: there is no recall to speak of")
    return found


def map11_intervals(
    scores: np.ndarray,
    y: np.ndarray,
    counted: np.ndarray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Basic bootstraps over images of `map11` and of `map11_dinov3`, as wide as to hold the values themselves.

    (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 5.2.) The best of many precisions is
    too high, more so for fewer images, and a resample is so once more: percentiles would move the wrong way. In
    simulations with 5 classes, which 4 to 40 % of images show, the 95 % interval held the truth in 93, 90 and 90 % of
    150, 100 and 40 sets of 300, 1,000 and 5,000 images, the percentiles in 85, 87 and 93 %.

    The images are sorted once for each class; a resample weighs each by how often it was drawn.
    """
    curves, rng, n = _curves(scores, y, counted), np.random.default_rng(seed), len(scores)
    found = []
    for start in range(0, resamples, TOGETHER):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(TOGETHER, resamples - start))
        best = np.stack([_resampled(curve, times) for curve in curves], axis=1)  # (resamples, classes, 11)
        found.append(np.stack([np.nanmean(part, axis=(1, 2)) for part in (best, from_one(best))]))
    values = map11(scores, y, counted), map11_dinov3(scores, y, counted)
    low, high = np.quantile(np.concatenate(found, axis=1), [(1 - level) / 2, (1 + level) / 2], axis=1)
    own, released = (
        (max(0.0, min(v, 2 * v - above)), min(1.0, max(v, 2 * v - below)))
        for v, below, above in zip(values, low.tolist(), high.tolist(), strict=True)
    )
    return own, released


class _Curve(NamedTuple):
    """Of one class: the images that count by falling score, whether each is a positive, the last of each threshold."""

    order: np.ndarray
    true: np.ndarray
    ends: np.ndarray


def _curves(scores: np.ndarray, y: np.ndarray, counted: np.ndarray | None) -> list[_Curve]:
    scores, truth = np.asarray(scores, np.float64), np.asarray(y) > 0
    counts = np.ones(truth.shape, bool) if counted is None else np.asarray(counted, bool)
    if not scores.shape == truth.shape == counts.shape or scores.ndim != 2:
        raise ValueError(f"scores and y are both (n, classes), not {scores.shape} and {truth.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    curves = []
    for score, true, of_class in zip(scores.T, truth.T, counts.T, strict=True):
        order = np.argsort(-score, kind="stable")
        order = order[of_class[order]]
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) if len(order) else order
        curves.append(_Curve(order, true[order], ends))
    return curves


def _resampled(curve: _Curve, times: np.ndarray) -> np.ndarray:
    """The best precisions (r, 11) where image i was drawn times[:, i] (r, n); NaN where no positive was."""
    drawn = times[:, curve.order]
    right, seen = (np.cumsum(part, axis=1)[:, curve.ends] for part in (drawn * curve.true, drawn))
    precision = right / np.maximum(seen, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # over this threshold and lower ones
    positives = right[:, -1] if right.shape[1] else np.zeros(len(times), np.int64)
    out = np.full((len(times), RECALLS), np.nan)
    for level in range(RECALLS) if right.shape[1] else ():
        # The first threshold with recall >= level, in whole numbers: .3 × 10 is not 3 in floating point.
        wanted = -(-level * positives // (RECALLS - 1))
        place = (right < wanted[:, None]).sum(axis=1)
        out[:, level] = np.where(positives > 0, best[np.arange(len(times)), place], np.nan)
    return out
