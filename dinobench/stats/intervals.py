"""Intervals for the numbers in the records."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

from dinobench import lazy

with lazy.imports():
    import numpy as np
    from scipy import special

#: Resamples of a percentile bootstrap; its Monte Carlo error in a 95 % bound is then about 2 % of a standard error.
RESAMPLES = 10_000
#: With more distinct scores than this items are drawn, and not counts. (Below, counts are slower too from some 300, yet
#: records of earlier versions have their intervals from them.)
MANY = 4096
#: Time of one multinomial count in draws of one item, measured.
DRAWS_A_COUNT = 15
#: Below so many groups resampled means spread too little: simulated at 8 groups of real scores, a percentile
#: bootstrap's 95 % interval holds the truth 86 to 89 % of the time, Student's 94 to 96 %.
ENOUGH_GROUPS = 30
#: With fewer right (or wrong) answers than this, resampling cannot show what was never drawn: at 1 % of 100 the
#: bootstrap's interval holds the truth 63 % of the time, Wilson's 92 %, and a perfect score leaves no doubt at all.
ENOUGH_OF_EACH = 10


def interval(
    scores: np.ndarray, *, clusters: np.ndarray | None = None, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Interval of the mean of `scores` (n,), whose groups are `clusters` (n,) or else the items themselves.

    The percentile bootstrap, except where it is known to be too narrow: Wilson's score interval (Wilson 1927, JASA 22)
    where nearly all answers are right or nearly all wrong, Student's t over groups where there are few of them. None
    for a single group, of which nothing is known.

    >>> [round(bound, 3) for bound in interval(np.ones(100))]
    [0.963, 1.0]
    """
    scores = np.asarray(scores, dtype=np.float64)
    if clusters is None and np.isin(scores, (0, 1)).all():
        right = int(scores.sum())
        if min(right, len(scores) - right) < ENOUGH_OF_EACH:
            return wilson_interval(right, len(scores), level)
        return bootstrap_interval(scores, level=level, seed=seed)
    sums, sizes = grouped(scores, clusters)
    if len(sums) >= ENOUGH_GROUPS:
        return bootstrap_interval(scores, clusters=clusters, level=level, seed=seed)
    if len(sums) < 2:
        return None
    low, high = student_interval(sums, sizes, level)
    fractions = scores.min() >= 0 and scores.max() <= 1  # whose mean is no more and no less either
    return (max(0.0, low), min(1.0, high)) if fractions else (low, high)


def wilson_interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share, `right` of `n` (Wilson 1927, JASA 22, 209).

    >>> [round(bound, 4) for bound in wilson_interval(0, 10)]
    [0.0, 0.2775]
    """
    z = float(special.ndtri((1 + level) / 2))
    share = right / n
    centre, reach = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((centre + side * reach) / (1 + z**2 / n) for side in (-1, 1))
    return max(0.0, low) if right else 0.0, min(1.0, high) if right < n else 1.0


def student_interval(sums: np.ndarray, sizes: np.ndarray, level: float) -> tuple[float, float]:
    """Student's t interval of the mean over all items of groups with these `sums` and `sizes` (g,), g of 2 or more."""
    mean, t = float(sums.sum() / sizes.sum()), float(special.stdtrit(len(sums) - 1, (1 + level) / 2))
    reach = t * standard_error(sums, sizes)
    return mean - reach, mean + reach


def grouped(scores: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(sums (g,), sizes (g,)) of the groups of `scores` (n,), float64; without `clusters` each score is a group."""
    if clusters is None:
        return scores, np.ones_like(scores)
    _, member, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    return np.bincount(member, weights=scores), sizes.astype(np.float64)


def standard_error(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Of the mean over all items of groups with these `sums` (g,) and `sizes` (g,), g of 2 or more.

    The mean is a ratio of sums where groups differ in size (Cochran 1977, Sampling Techniques, 6.4).
    """
    residuals = (sums - sums.sum() / sizes.sum() * sizes) / sizes.mean()
    return float(residuals.std(ddof=1)) / math.sqrt(len(sums))


def bootstrap_interval(
    scores: np.ndarray, *, clusters: np.ndarray | None = None, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile-bootstrap interval of the mean of `scores` (n,), resampling items or, if given, whole clusters.

    A resampled mean depends only on how often each distinct item is drawn, so the draws are multinomial counts; equal
    scores are one distinct item, which makes right/wrong scores of any number of images instant. Where there are more
    than `MANY` of them, items are drawn one by one, which takes less time and is the same distribution. `clusters`
    (n,) holds a label per item: clusters are drawn with replacement and the mean is over the items of the drawn ones.
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.)

    Raises ValueError for no scores.

    >>> low, high = bootstrap_interval(np.array([0.0] * 30 + [1.0] * 70))
    >>> round(low, 2), round(high, 2)
    (0.61, 0.79)
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.size == 0:
        raise ValueError("an interval needs at least one score")
    if clusters is None:
        sums, repeats = np.unique(scores, return_counts=True)
        sizes = np.ones_like(sums)
    else:
        sums, sizes = grouped(scores, clusters)
        repeats = np.ones(len(sums), dtype=np.int64)
    draws = int(repeats.sum())
    if len(sums) > MANY and draws < DRAWS_A_COUNT * len(sums):
        means = _means_by_items(np.repeat(sums, repeats), np.repeat(sizes, repeats), seed)
    else:
        means = _means_by_counts(sums, sizes, repeats, seed)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _means_by_counts(sums: np.ndarray, sizes: np.ndarray, repeats: np.ndarray, seed: int) -> np.ndarray:
    """Resampled means (RESAMPLES,): how often each of the d groups (d,) is drawn, `repeats` times as likely."""
    rng = np.random.default_rng(seed)
    draws = int(repeats.sum())
    rows = max(1, min(RESAMPLES, 20_000_000 // len(sums)))  # keeps a batch of counts under 160 MB
    means = []
    for start in range(0, RESAMPLES, rows):
        counts = rng.multinomial(draws, repeats / draws, size=min(rows, RESAMPLES - start))
        means.append((counts @ sums) / (counts @ sizes))
    return np.concatenate(means)


def _means_by_items(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """Resampled means (RESAMPLES,) of the n groups (n,), n below 2^32, drawn one by one.

    An item is the upper half of a random number of 32 bits times n (Lemire 2019, ACM TOMACS 29, 3), whose rare
    rejection is left out: items are equally likely to n / 2^32, one in 10^5 at 50,000. Blocks of resamples have
    generators of their own, so that threads may share them and the means stay the same.
    """
    n = len(sums)
    rows = max(1, 2**18 // n)  # a block's draws stay in a core's cache
    blocks = range(0, RESAMPLES, rows)
    alike = bool((sizes == sizes[0]).all())
    threads, seeds = os.cpu_count() or 1, np.random.SeedSequence(seed).spawn(len(blocks))

    def share(first: int) -> list[np.ndarray]:
        """Means of every `threads`-th block, in memory of their own: fresh pages would cost more than the draws."""
        index, values = np.empty((rows, n), dtype=np.uint64), np.empty((rows, n))
        means = []
        for own in seeds[first::threads]:
            bits = np.random.Generator(np.random.SFC64(own)).integers(2**64, size=(rows * n + 1) // 2, dtype=np.uint64)
            np.multiply(bits.view(np.uint32)[: rows * n].reshape(rows, n), np.uint64(n), out=index)
            drawn = np.right_shift(index, 32, out=index).view(np.intp)
            # NumPy takes into memory at hand without a copy only with a `mode`; none of them is out of bounds.
            total = sums.take(drawn, out=values, mode="clip").sum(axis=1)
            means.append(total / (n * sizes[0] if alike else sizes.take(drawn, out=values, mode="clip").sum(axis=1)))
        return means

    with ThreadPoolExecutor(threads) as pool:
        shares = list(pool.map(share, range(threads)))
    return np.concatenate([shares[block % threads][block // threads] for block in range(len(blocks))])[:RESAMPLES]
