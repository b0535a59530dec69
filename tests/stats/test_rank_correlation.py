"""Spearman's correlation: against SciPy, resamples against repeated things, and how often intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dinobench.stats import rank_correlation as module
from dinobench.stats.rank_correlation import rank_correlation


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(3, 30), st.integers(2, 9))
def test_it_is_scipys_with_equal_scores_too(seed, n, values):
    r = np.random.default_rng(seed)
    x, y = r.integers(0, values, n), r.integers(0, values, n) * 0.1
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ValueError, match="differ"):
            rank_correlation(x, y)
        return
    assert rank_correlation(x, y).rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_a_resample_is_what_repeating_things_gives():
    r = np.random.default_rng(1)
    x, y = r.integers(0, 6, 15).astype(float), r.random(15)
    weights = r.multinomial(15, np.full(15, 1 / 15), 40)
    found = module._weighted(x, y, weights.astype(float))
    wanted = [stats.spearmanr(np.repeat(x, w), np.repeat(y, w)).statistic for w in weights]
    assert found == pytest.approx(wanted, abs=1e-12)
    alone = np.eye(15)[:1] * 15
    assert np.isnan(module._weighted(x, y, alone)).all()


def test_monotone_changes_change_nothing_and_a_turned_order_the_sign():
    r = np.random.default_rng(2)
    x = r.random(20)
    y = x + r.random(20)
    found = rank_correlation(x, y)
    assert found == rank_correlation(np.exp(x), y**3) and found.low < found.rho < found.high and found.n == 20
    turned = rank_correlation(-x, y)
    assert (turned.rho, turned.low, turned.high) == pytest.approx((-found.rho, -found.high, -found.low), abs=1e-12)
    assert rank_correlation(x, x).low == pytest.approx(1)


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 500)
    r, held = np.random.default_rng(3), 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of normal scores with a correlation of .6 (Pearson 1907)
    for seed in range(200):
        x, y = r.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 16).T
        found = rank_correlation(x, y, seed=seed)
        held += found.low <= truth <= found.high
    assert 180 <= held <= 199


def test_few_things_have_no_interval_and_what_is_no_order_is_refused():
    assert rank_correlation(np.arange(5), np.arange(5)).low is None
    for x, y in (([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, np.nan], [1, 2, 3])):
        with pytest.raises(ValueError, match="rank correlation"):
            rank_correlation(np.array(x), np.array(y))
