"""Intervals for numbers made of sums over items, such as a mean IoU: a mean of ratios, which itself is no mean."""

from __future__ import annotations

import math
from collections.abc import Callable

from dinobench import lazy

with lazy.imports():
    import numpy as np
    from scipy import special


def jackknife_interval(
    parts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of `statistic` of the sum over n items of what each contributes, `parts` (n, ...).

    `statistic` maps sums (m, ...) to (m,). Student's t around the jackknife's estimate, whose bias of order 1/n is
    taken off, with the jackknife's standard error (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
    chapters 10 and 11), widened to hold the value itself. None for a single item.

    Not the percentile bootstrap: a class that few images show drops out of many resamples, which moves and narrows
    them. For a mean IoU over 21 classes, of which an image shows two to four, its 95 % interval was simulated to hold
    the truth 36, 74, 85 and 90 % of the time at 30, 75, 150 and 500 images, this one 89, 94, 95 and 97 %.

    >>> low, high = jackknife_interval(np.array([[1, 2], [3, 4], [2, 3], [4, 4]]), lambda s: s[:, 0] / s[:, 1])
    >>> round(low, 3), round(high, 3)
    (0.455, 1.105)
    """
    parts = np.asarray(parts, np.float64)
    n = len(parts)
    if n < 2:
        return None
    total = parts.sum(axis=0)
    value = float(statistic(total[None])[0])
    without = statistic(total - parts)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    centre = n * value - (n - 1) * float(without.mean())
    reach = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    return min(value, centre - reach), max(value, centre + reach)
