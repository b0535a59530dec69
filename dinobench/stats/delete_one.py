"""Intervals of numbers that are no means of items, from what leaving out one item does to them.

(Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.) Resampling with replacement would put the
same image in twice: pairs of it with itself are no pairs, and make clusters agree that do not.
"""

from __future__ import annotations

import math

import numpy as np

from dinobench import lazy

with lazy.imports():
    from scipy import special

Interval = tuple[float, float]


def log_pair_mean_interval(terms: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of ln(mean over pairs of a kernel), from each item's mean over the others, terms (n,), n of 2 or more.

    An item is in two of n parts of all pairs: to first order the error of the mean over pairs is twice that of the
    items' means (Hoeffding 1948, Annals of Mathematical Statistics 19, section 7).
    """
    mean = float(terms.mean())
    error = 2 * float(terms.std(ddof=1)) / math.sqrt(len(terms)) / mean
    return _around(math.log(mean), error, level)


def agreement_intervals(pred: np.ndarray, y: np.ndarray, level: float = 0.95) -> dict[str, Interval]:
    """Intervals of the normalised mutual information and the adjusted Rand index of clusters pred (n,) and classes y.

    Keys are `nmi` and `ari`, as scikit-learn defines them (arithmetic mean of the entropies). The clusters are taken as
    given: how they would differ over other images is not in it. None is given where one item decides whether a number
    can be told at all.
    """
    _, row = np.unique(pred, return_inverse=True)
    _, column = np.unique(y, return_inverse=True)
    cells, counts = np.unique(np.stack([row, column]), axis=1, return_counts=True)
    rows, columns = np.bincount(row)[cells[0]], np.bincount(column)[cells[1]]
    whole = tuple(np.bincount(x) for x in (row, column))
    found = {}
    for name, statistic in (("nmi", _nmi), ("ari", _ari)):
        value, without = statistic(counts, rows, columns, *whole)
        if np.isfinite(without).all():
            n = len(pred)
            spread = float(counts @ (without - counts @ without / n) ** 2)
            found[name] = _around(value, math.sqrt((n - 1) / n * spread), level, most=1.0)
    return found


def _around(value: float, error: float, level: float, most: float = math.inf) -> Interval:
    reach = float(special.ndtri((1 + level) / 2)) * error
    return value - reach, min(most, value + reach)


def _sums(f: np.ndarray, *tables: tuple[np.ndarray, np.ndarray]) -> list[tuple[float, np.ndarray]]:
    """Of each (all counts, counts that an item of each cell is in): the sum of f, and it with that item left out.

    f (n + 1,) holds a function of every count.
    """
    return [(float(f[every].sum()), f[every].sum() - f[own] + f[own - 1]) for every, own in tables]


def _nmi(
    counts: np.ndarray, rows: np.ndarray, columns: np.ndarray, every_row: np.ndarray, every_column: np.ndarray
) -> tuple[float, np.ndarray]:
    """The value, and for every cell that without one of its items."""
    n = int(counts.sum())
    f = special.xlogy(np.arange(n + 1.0), np.arange(n + 1.0))
    both, one, other = _sums(f, (counts, counts), (every_row, rows), (every_column, columns))

    def value(n: int, both: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        entropies = 2 * np.log(n) - (one + other) / n
        with np.errstate(divide="ignore", invalid="ignore"):
            result: np.ndarray = 2 * (np.log(n) + (both - one - other) / n) / entropies
        return result

    return float(value(n, *map(np.asarray, (both[0], one[0], other[0])))), value(n - 1, both[1], one[1], other[1])


def _ari(
    counts: np.ndarray, rows: np.ndarray, columns: np.ndarray, every_row: np.ndarray, every_column: np.ndarray
) -> tuple[float, np.ndarray]:
    """As `_nmi`."""
    n = int(counts.sum())
    f = np.arange(n + 1.0) * np.arange(-1.0, n) / 2
    both, one, other = _sums(f, (counts, counts), (every_row, rows), (every_column, columns))

    def value(n: int, both: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        by_chance = one * other / (n * (n - 1) / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            result: np.ndarray = (both - by_chance) / ((one + other) / 2 - by_chance)
        return result

    return float(value(n, *map(np.asarray, (both[0], one[0], other[0])))), value(n - 1, both[1], one[1], other[1])
