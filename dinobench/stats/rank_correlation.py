"""Do two scores put the same things in the same order? Spearman's rank correlation, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

from dinobench import lazy
from dinobench.stats.intervals import RESAMPLES
from dinobench.stats.paired_tests import FEWEST

with lazy.imports():
    import numpy as np

#: Numbers of a block of resamples that are held at once.
BLOCK = 4_000_000


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's `rho` over `n` things, with its interval where they are enough for one."""

    rho: float
    low: float | None
    high: float | None
    n: int


def rank_correlation(x: np.ndarray, y: np.ndarray, *, level: float = 0.95, seed: int = 0) -> RankCorrelation:
    """Of the scores `x` and `y` (n,): Pearson's correlation of their ranks, equal scores sharing the mean of theirs.

    The interval is a percentile bootstrap over the things. Resamples in which either score is the same throughout have
    no order and are left out. (Spearman 1904, American Journal of Psychology 15; Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, chapter 13.)

    Raises ValueError where either is the same throughout, for fewer than three and for what is not finite.

    >>> rank_correlation(np.array([1, 2, 3]), np.array([10, 30, 20])).rho
    0.5
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ValueError(f"a rank correlation is of three pairs or more, not of shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a rank correlation is of finite numbers")
    rho = float(_weighted(x, y, np.ones((1, len(x))))[0])
    if np.isnan(rho):
        raise ValueError("a rank correlation is of scores that differ")
    n = len(x)
    if n < FEWEST:
        return RankCorrelation(rho, None, None, n)
    rng, found = np.random.default_rng(seed), []
    rows = max(1, BLOCK // n)
    for start in range(0, RESAMPLES, rows):
        drawn = rng.multinomial(n, np.full(n, 1 / n), min(rows, RESAMPLES - start))
        found.append(_weighted(x, y, drawn.astype(np.float64)))
    values = np.concatenate(found)
    low, high = np.quantile(values[~np.isnan(values)], [(1 - level) / 2, (1 + level) / 2])
    return RankCorrelation(rho, float(low), float(high), n)


def _weighted(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """rho (r,) of x and y (n,) in which thing i comes `weights[r, i]` times; NaN where there is no order."""
    total = weights.sum(axis=1, keepdims=True)
    a, b = (_ranks(scores, weights) for scores in (x, y))
    a, b = (ranks - (weights * ranks).sum(axis=1, keepdims=True) / total for ranks in (a, b))
    spread = (weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-9, (weights * a * b).sum(axis=1) / np.sqrt(spread), np.nan)


def _ranks(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(r, n) ranks of `scores` (n,) where each comes `weights` (r, n) times: those before it, and half of its like."""
    before = (scores[:, None] < scores).astype(np.float64)  # [j, i]: j stands before i
    alike = (scores[:, None] == scores).astype(np.float64)
    return weights @ before + (weights @ alike + 1) / 2
