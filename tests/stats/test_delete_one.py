"""Intervals from leaving out one item: against leaving it out indeed, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from dinobench.metrics.representation import uniformity, uniformity_terms
from dinobench.stats.delete_one import agreement_intervals, log_pair_mean_interval


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(8, 40), st.integers(2, 5))
def test_agreement_is_scikit_learns_with_each_item_left_out(seed, n, k):
    r = np.random.default_rng(seed)
    y = r.integers(0, k, n)
    pred = np.where(r.random(n) < 0.5, y, r.integers(0, k, n))
    found = agreement_intervals(pred, y)
    for name, score in (("nmi", normalized_mutual_info_score), ("ari", adjusted_rand_score)):
        if name not in found:
            continue
        without = np.array([score(np.delete(y, i), np.delete(pred, i)) for i in range(n)])
        error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
        low, high = found[name]
        assert low == pytest.approx(score(y, pred) - 1.959964 * error, abs=1e-6)
        assert high == pytest.approx(min(1, score(y, pred) + 1.959964 * error), abs=1e-6)


def test_one_cluster_has_no_interval_that_means_anything():
    assert "ari" in agreement_intervals(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 1]))
    assert agreement_intervals(np.zeros(5, int), np.zeros(5, int)) == {}


def test_intervals_hold_the_truth_as_often_as_they_say():
    """95 % of 300 draws of 300 items; the truth is that of 6,000."""
    r = np.random.default_rng(0)

    def clusters(n):
        y = r.integers(0, 4, n)
        return np.where(r.random(n) < 0.6, y, r.integers(0, 4, n)), y

    def vectors(n):
        return r.standard_normal((n, 4)) + np.array([1.0, 0, 0, 0])

    pred, y = clusters(200_000)
    truth = {"nmi": normalized_mutual_info_score(y, pred), "ari": adjusted_rand_score(y, pred)}
    uniform = uniformity(vectors(6000))
    held = dict.fromkeys(("nmi", "ari", "uniformity"), 0)
    for _ in range(300):
        found = agreement_intervals(*clusters(300))
        for name, (low, high) in found.items():
            held[name] += low <= truth[name] <= high
        low, high = log_pair_mean_interval(uniformity_terms(vectors(300)))
        held["uniformity"] += low <= uniform <= high
    assert all(0.91 <= count / 300 <= 0.99 for count in held.values()), held
