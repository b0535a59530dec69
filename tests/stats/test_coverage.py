"""Intervals hold the truth as often as they say, and tests err as rarely as they promise: by simulation.

Every bound leaves three standard errors for the simulation's own chance.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from dinobench.stats import intervals, paired_tests
from dinobench.stats.intervals import bootstrap_interval
from dinobench.stats.paired_tests import BinaryPairs, PairedDifferences, bounds, paired_test


def tables(rng, n, differing, difference, draws):
    """[(won, lost), how often] of simulated right/wrong runs that differ on a share of n items."""
    shares = [(differing + difference) / 2, (differing - difference) / 2, 1 - differing]
    seen, times = np.unique(rng.multinomial(n, shares, draws)[:, :2], axis=0, return_counts=True)
    return [(BinaryPairs(n, int(w), int(lo)), t / draws) for (w, lo), t in zip(seen, times, strict=True)]


@pytest.mark.parametrize("n", [100, 500, 4000])
@pytest.mark.parametrize("differing", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("side", [0.0, 0.6])
def test_right_or_wrong_differences_are_covered(n, differing, side):
    """At n x differing = 1 there is next to nothing to see, and the interval errs towards holding the truth."""
    truth, draws = side * differing, 3000
    covered = 0.0
    for found, share in tables(np.random.default_rng(n), n, differing, truth, draws):
        low, high = found.interval()
        covered += share * (low - 1e-12 <= truth <= high + 1e-12)
    slack = 3 * np.sqrt(0.95 * 0.05 / draws)
    assert covered + slack >= 0.93 and (covered - slack <= 0.97 or n * differing < 5)


#: Differences of scores as protocols have them: of few-shot shares, of average precisions (skewed, many near 0).
POPULATIONS = {
    "fractions": np.subtract(*np.random.default_rng(1).binomial(5, [[0.5], [0.4]], (2, 5000))) / 5,
    "precisions": np.random.default_rng(3).beta(0.5, 2, 5000) - np.random.default_rng(4).beta(0.5, 3, 5000),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("n", [8, 60])
def test_differences_of_scores_are_covered(name, n, monkeypatch):
    for module in (paired_tests, intervals):
        monkeypatch.setattr(module, "RESAMPLES", 1000)
    population = POPULATIONS[name]
    rng, trials = np.random.default_rng(5), 2000
    samples = rng.choice(population, (trials, n))
    covered = 0
    for i, sample in enumerate(samples):
        low, high = PairedDifferences(sample, np.ones(n)).interval(seed=i)
        covered += low <= population.mean() <= high
    assert 0.93 - 0.01 <= covered / trials <= 0.97 + 0.01


def test_clustered_differences_are_covered_and_their_p_is_below_alpha_as_often_as_it_says():
    rng, trials, videos = np.random.default_rng(6), 1500, 8
    clusters = np.repeat(np.arange(videos), [1, 2, 3, 1, 2, 4, 1, 2])
    covered = rejected = 0
    for _ in range(trials):
        d = rng.normal(0, 0.1, videos)[clusters] + rng.normal(0, 0.05, len(clusters))
        found = paired_test(d, np.zeros(len(d)), clusters)
        low, high = found.interval()
        covered += low <= 0 <= high
        rejected += found.p() <= 0.05
    assert 0.93 - 0.015 <= covered / trials <= 0.97 + 0.015
    assert 0.02 <= rejected / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)  # 2 / 2^8 apart, so p is coarse


@pytest.mark.parametrize(
    ("n", "differing", "margin"),
    [(200, 0.02, 0.005), (1000, 0.005, 0.005), (2000, 0.005, 0.002), (1000, 0.02, 0.005), (2000, 0.1, 0.005)],
)
def test_one_sided_tests_of_right_or_wrong_keep_their_level(n, differing, margin):
    """At a true drop of exactly the margin, where both errors are likeliest; few disagreements are the hard case."""
    draws = 6000
    found = tables(np.random.default_rng(7), n, differing, -margin, draws)
    for alpha in (0.05, 0.1):
        slack = 3 * np.sqrt(alpha * (1 - alpha) / draws)
        assert sum(share for c, share in found if c.p_above(-margin) <= alpha) <= alpha + slack
        assert sum(share for c, share in found if c.p_below(-margin) <= alpha) <= alpha + slack


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("n", [100, 500])
def test_one_sided_tests_of_scores_keep_their_level(name, n):
    population, trials = POPULATIONS[name], 2000
    samples = np.random.default_rng(8).choice(population, (trials, n))
    truth = population.mean()
    found = [PairedDifferences(sample, np.ones(n)) for sample in samples]
    slack = 3 * np.sqrt(0.05 * 0.95 / trials)
    assert np.mean([m.p_above(truth) <= 0.05 for m in found]) <= 0.05 + slack
    assert np.mean([m.p_below(truth) <= 0.05 for m in found]) <= 0.05 + slack
    low, high = bounds(found[0], 0.05)
    assert (low < truth) == (found[0].p_above(truth) > 0.05) and (truth < high) == (found[0].p_below(truth) > 0.05)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_single_scores_of_right_or_wrong_are_covered(share, monkeypatch):
    """The records' own intervals, over all numbers of right answers weighted by how likely they are."""
    monkeypatch.setattr(intervals, "RESAMPLES", 4000)
    n = 100
    covered = 0.0
    for right in range(n + 1):
        if (likely := float(binom.pmf(right, n, share))) > 1e-6:
            low, high = bootstrap_interval(np.repeat([1.0, 0.0], [right, n - right]))
            covered += likely * (low - 1e-9 <= share <= high + 1e-9)
    assert 0.93 <= covered <= 0.97
