"""Intervals for a mean over classes of each class's own mean."""

from __future__ import annotations

import math

from dinobench import lazy
from dinobench.stats.intervals import grouped, standard_error, wilson_interval

with lazy.imports():
    import numpy as np
    from scipy import special


def stratified_interval(
    scores: np.ndarray, strata: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None, level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of the mean over classes of the classes' means of `scores` (n,), fractions of 0..1.

    `strata` (n,) are the items' classes, `clusters` (n,) what items depend by within a class. `weights` (s,) are of the
    classes in sorted order, all alike if None. Student's t with the degrees of freedom of Welch and Satterthwaite, the
    classes' errors being independent (Cochran 1977, Sampling Techniques, 5.4). Where all answers are right, or all
    wrong, Wilson's over clusters. None where a class has a single cluster, of which nothing is known.

    >>> low, high = stratified_interval(np.arange(40) % 2, np.arange(40) // 20, np.arange(40))
    >>> round(low, 3), round(high, 3)
    (0.336, 0.664)
    """
    scores = np.asarray(scores, np.float64)
    names, member = np.unique(strata, return_inverse=True)
    parts = [grouped(scores[member == s], np.asarray(clusters)[member == s]) for s in range(len(names))]
    if any(len(sums) < 2 for sums, _ in parts):
        return None
    share = np.full(len(names), 1 / len(names)) if weights is None else np.asarray(weights) / np.sum(weights)
    mean = float(sum(w * sums.sum() / sizes.sum() for w, (sums, sizes) in zip(share, parts, strict=True)))
    if scores.min() == scores.max() and mean in (0.0, 1.0):
        count = sum(len(sums) for sums, _ in parts)
        return wilson_interval(round(mean * count), count, level)
    variances = np.array([(w * standard_error(*part)) ** 2 for w, part in zip(share, parts, strict=True)])
    free = variances.sum() ** 2 / sum(v**2 / (len(sums) - 1) for v, (sums, _) in zip(variances, parts, strict=True))
    reach = float(special.stdtrit(free, (1 + level) / 2)) * math.sqrt(variances.sum())
    return max(0.0, mean - reach), min(1.0, mean + reach)
