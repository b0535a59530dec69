"""Paired tests: is one run better than another on the same items, by how much, and could these items have shown it?

Right/wrong scores are counts of the items on which the two runs disagree; all others are differences averaged over
items, or over groups of items that resemble each other (the objects of one video).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dinobench import lazy
from dinobench.stats.intervals import (
    ENOUGH_GROUPS,
    RESAMPLES,
    bootstrap_interval,
    grouped,
    standard_error,
    student_interval,
)

with lazy.imports():
    import numpy as np
    from scipy import special

#: Random sign patterns of a sign-flip test; p is then never below 1e-4.
FLIPS = 10_000
#: Drawing how often each distinct difference comes is faster than drawing the groups where it stands for so many.
REPEATS = 16
#: With fewer groups than this, even all of them agreeing is no proof at the 5 % level: 2 / 2^5 = 0.06.
FEWEST = 6
#: The level and the power that the smallest detectable difference is meant at.
ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True)
class BinaryPairs:
    """Right/wrong scores of two runs on n items: `won` right in the first run alone, `lost` in the second alone."""

    n: int
    won: int
    lost: int

    @property
    def mean(self) -> float:
        return (self.won - self.lost) / self.n

    @property
    def groups(self) -> int:
        return self.n

    @property
    def error(self) -> float:
        """Standard error with an imagined item on either side, which keeps it above 0 (Bonett and Price 2012)."""
        won, lost = (self.won + 1) / (self.n + 2), (self.lost + 1) / (self.n + 2)
        return math.sqrt((won + lost - (won - lost) ** 2) / (self.n + 2))

    def p(self) -> float:
        """Two-sided p of McNemar's exact test (McNemar 1947, with the binomial distribution for his approximation)."""
        return min(1.0, 2 * float(special.bdtr(min(self.won, self.lost), self.won + self.lost, 0.5)))

    def interval(self, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Score interval of the difference (Tango 1998, Statistics in Medicine 17, equation 8).

        Resampling fails where few items differ: with 5 of 500 expected, a Wald or bootstrap interval covers 87 to
        95 % of the time, this one 94 to 96 % (simulated; from five expected disagreements on, 93 to 97 %).
        """
        z = float(special.ndtri((1 + level) / 2))
        return _root(lambda x: self._tango(x) - z, -1.0, self.mean), _root(lambda x: self._tango(x) + z, self.mean, 1.0)

    def _tango(self, x: float) -> float:
        """The score statistic against a true difference of `x`, standard normal if that is the truth."""
        linear = -self.won - self.lost + (2 * self.n - self.won + self.lost) * x
        lost = (math.sqrt(max(0.0, linear**2 + 8 * self.n * self.lost * x * (1 - x))) - linear) / (4 * self.n)
        variance = self.n * (2 * lost + x * (1 - x))
        away = self.won - self.lost - self.n * x
        return away / math.sqrt(variance) if variance > 1e-12 else 0.0 if abs(away) < 1e-9 else math.copysign(1e9, away)

    def p_above(self, x: float) -> float:
        """One-sided p against "the true difference is at most x": small when it is above.

        The largest of three, because each alone lets too much through somewhere: the score test where few items
        differ and most of them to one side, the adjusted Wald test where the true difference is all there is, and
        the exact binomial test is right for just that case. Simulated, the largest keeps its level for any number of
        items and share of disagreements.
        """
        shifted = ((self.won - self.lost) / (self.n + 2) - x) / self.error
        exact = float(special.bdtr(self.lost - self.won, self.n, -x)) if x < 0 and self.lost >= self.won else 0.0
        return max(_normal_above(self._tango(x)), _normal_above(shifted), exact)

    def p_below(self, x: float) -> float:
        """One-sided p against "the true difference is at least x"."""
        return BinaryPairs(self.n, self.lost, self.won).p_above(-x)

    def detectable(self) -> float | None:
        """The smallest difference that McNemar's test would find in 80 % of such experiments (Connor 1987)."""
        if self.n < FEWEST:
            return None
        differing = (self.won + self.lost) / self.n
        z_alpha, z_power = float(special.ndtri(1 - ALPHA / 2)), float(special.ndtri(POWER))

        def missing(x: float) -> float:
            return z_alpha * math.sqrt(differing) + z_power * math.sqrt(max(0.0, differing - x**2)) - x * self.n**0.5

        normal = _root(missing, 0.0, 1.0)
        # It takes six disagreements, all to one side, to get p below 0.05: so often must they happen.
        return max(normal, float(special.betaincinv(FEWEST, self.n - FEWEST + 1, POWER)))


@dataclass(frozen=True)
class PairedDifferences:
    """Differences averaged over groups: per group the sum of its items' differences, and how many items it has."""

    sums: np.ndarray  # (groups,) float64
    sizes: np.ndarray  # (groups,) float64

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def groups(self) -> int:
        return len(self.sums)

    @property
    def residuals(self) -> np.ndarray:
        """(groups,) what each group adds to the mean beyond its share: they sum to 0."""
        return (self.sums - self.mean * self.sizes) / self.sizes.mean()

    @property
    def error(self) -> float:
        """Standard error of the mean; infinite for one group."""
        return standard_error(self.sums, self.sizes) if self.groups > 1 else math.inf

    def p(self, seed: int = 0) -> float:
        """Two-sided p of the sign-flip test: if the runs are equal, each group's sign was a coin toss.

        Simulated on real scores it rejects 5 to 6 % of the time at 5 % from 20 groups on, and at most 5 % for any
        number where differences are symmetric.
        All patterns are tried where that takes fewer than drawing them. (Fisher 1935, The Design of Experiments, 21.)
        """
        values = self.sums[self.sums != 0]
        if not len(values):
            return 1.0
        most = abs(values.sum()) * (1 - 1e-12) - 1e-15
        if 2 ** len(values) <= FLIPS:
            patterns = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
            return float((np.abs(patterns @ values * 2 - values.sum()) >= most).mean())
        rng, hits, done = np.random.default_rng(seed), 0, 0
        rows = max(1, 4_000_000 // len(values))
        while done < FLIPS:
            n = min(rows, FLIPS - done)
            bits = np.unpackbits(rng.integers(0, 256, (n, -(-len(values) // 8)), np.uint8), axis=1)
            flipped = bits[:, : len(values)].astype(np.float64) @ values * 2 - values.sum()
            hits += int((np.abs(flipped) >= most).sum())
            done += n
        return (1 + hits) / (1 + FLIPS)

    @property
    def interval_method(self) -> str:
        if self.groups < ENOUGH_GROUPS:
            return f"Student's t interval over {self.groups} groups"
        return "paired bootstrap interval"

    def interval(self, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Bootstrap over groups with its percentiles moved out to a t interval's; Student's t below 30 groups.

        (Hesterberg 2015, The American Statistician 69, section 4.1, for the moved percentiles.) Infinite for one group.
        """
        if self.groups < 2:
            return -math.inf, math.inf
        if self.groups < ENOUGH_GROUPS:
            return student_interval(self.sums, self.sizes, level)
        t = float(special.stdtrit(self.groups - 1, (1 + level) / 2))
        tail = float(special.ndtr(-t * math.sqrt(self.groups / (self.groups - 1))))
        if (self.sizes == 1).all() and REPEATS * len(np.unique(self.sums)) <= self.groups:
            return bootstrap_interval(self.sums, level=1 - 2 * tail, seed=seed)
        low, high = np.quantile(self._resampled(seed), [tail, 1 - tail])
        return float(low), float(high)

    def _resampled(self, seed: int) -> np.ndarray:
        """Means over groups drawn with replacement, one by one: multinomial counts of many groups take far longer."""
        rng, means = np.random.default_rng(seed), []
        resamples = RESAMPLES if self.groups <= RESAMPLES else RESAMPLES // 5
        rows = max(1, 4_000_000 // self.groups)
        for start in range(0, resamples, rows):
            drawn = rng.integers(0, self.groups, (min(rows, resamples - start), self.groups))
            means.append(self.sums[drawn].sum(axis=1) / self.sizes[drawn].sum(axis=1))
        return np.concatenate(means)

    def p_above(self, x: float) -> float:
        """One-sided p against "the true difference is at most x": small when it is above.

        The larger of Student's and that of a t corrected for skewness (Hall 1992, JRSS B 54, 221): on skewed scores
        Student's alone rejects up to twice as often as it says on one side.
        """
        error = self.error
        if not math.isfinite(error):
            return 1.0
        if error == 0:  # every group differs by the same; another one need not, and no score differs by more than 1
            return max(0.0, 1 - (self.mean - x)) ** self.groups if self.mean > x else 1.0
        t = (self.mean - x) / error
        residuals = self.residuals
        skew = float((residuals**3).mean() / (residuals**2).mean() ** 1.5) / math.sqrt(self.groups)
        hall = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
        return float(special.stdtr(self.groups - 1, -min(t, hall)))

    def p_below(self, x: float) -> float:
        """One-sided p against "the true difference is at least x"."""
        return PairedDifferences(-self.sums, self.sizes).p_above(-x)

    def detectable(self) -> float | None:
        """The smallest difference that would have been found in 80 % of such experiments at the 5 % level."""
        if self.groups < FEWEST:
            return None
        return float(special.stdtrit(self.groups - 1, [1 - ALPHA / 2, POWER]).sum()) * self.error


PairedTest: TypeAlias = BinaryPairs | PairedDifferences


def paired_test(a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None) -> PairedTest:
    """What the scores `a` and `b` (n,) of two runs on the same items say of the mean of a - b.

    `clusters` (n,) holds a label per item: items of one group resemble each other and count as one draw.

    >>> paired_test(np.array([1, 1, 0, 1]), np.array([1, 0, 1, 0]))
    BinaryPairs(n=4, won=2, lost=1)
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if clusters is not None:
        sums, sizes = grouped(a - b, clusters)
        if len(sizes) < len(a):
            return PairedDifferences(sums, sizes)
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        return BinaryPairs(len(a), int((a > b).sum()), int((a < b).sum()))
    return PairedDifferences(a - b, np.ones(len(a)))


def bounds(test: PairedTest, alpha: float) -> tuple[float, float]:
    """One-sided (1 - alpha) bounds of the true difference, below and above: where the one-sided tests turn."""
    reach = 1.0 if isinstance(test, BinaryPairs) else max(1.0, abs(test.mean) + 100 * test.error)
    if not math.isfinite(reach):
        return -math.inf, math.inf
    low, high = -reach, reach
    if test.p_above(low) < alpha:
        low = _root(lambda x: alpha - test.p_above(x), low, test.mean)
    if test.p_below(high) < alpha:
        high = _root(lambda x: test.p_below(x) - alpha, test.mean, high)
    return low, high


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: rejecting what stays at most alpha errs anywhere with probability at most alpha.

    (Holm 1979, Scandinavian Journal of Statistics 6.)

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = corrected[i] = max(highest, min(1.0, (len(p) - rank) * p[i]))
    return corrected


def _normal_above(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where `falling` crosses 0 between `low` and `high`; an end, where it is below 0 or above it all the way."""
    from scipy.optimize import brentq  # late: importing scipy takes longer than most commands

    if falling(low) <= 0:
        return low
    return float(brentq(falling, low, high, xtol=1e-15)) if falling(high) < 0 else high
