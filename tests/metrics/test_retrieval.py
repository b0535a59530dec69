"""Ranking measures: the reference values, scikit-learn where the definitions meet, and properties."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from helpers.golden import NUMBERS
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from dinobench.algorithms import descriptors
from dinobench.metrics import retrieval
from dinobench.metrics.retrieval import (
    average_precision,
    leave_one_out,
    micro_average_precision,
    micro_average_precision_interval,
    precision_at,
    revisited_scores,
)


@pytest.mark.parametrize("module", [retrieval, descriptors])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("case", NUMBERS["copydays_ap"])
def test_trapezoid_average_precision_golden(case):
    assert average_precision(case["ranks"], case["n_positives"]) == pytest.approx(case["ap"], abs=1e-12)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_revisited_golden(difficulty):
    golden = NUMBERS["revisited_map"]
    rankings = np.argsort(-np.array(golden["similarity"]), axis=0, kind="stable").T
    ap, precision = revisited_scores(rankings, golden["gnd"], difficulty)
    expected = golden["expected"][difficulty]
    aps = np.array([np.nan if a is None else a for a in expected["aps"]])
    np.testing.assert_allclose(ap, aps, atol=1e-9)
    assert np.nanmean(ap) == pytest.approx(expected["map"], abs=1e-9)
    np.testing.assert_allclose(np.nanmean(precision, axis=0), expected["mp_at_1_5_10"], atol=1e-9)


@given(st.lists(st.booleans(), min_size=1, max_size=60).filter(any))
@settings(deadline=None, max_examples=60)
def test_average_precision_against_sklearn(relevant):
    """Without trapezoids ours is scikit-learn's. With them each positive but a leading run also counts the precision
    just before it, which is lower: the score loses half the mean step of precision at the positives."""
    relevant = np.array(relevant)
    ranks = np.flatnonzero(relevant)
    theirs = average_precision_score(relevant, -np.arange(len(relevant)))
    steps = average_precision(ranks, len(ranks), trapezoid=False)
    trapezoids = average_precision(ranks, len(ranks))
    assert steps == pytest.approx(theirs, abs=1e-12)
    i = np.arange(len(ranks))
    before = np.where(ranks == 0, 1, i / np.maximum(ranks, 1))
    assert steps - trapezoids == pytest.approx(((i + 1) / (ranks + 1) - before).mean() / 2, abs=1e-12)
    assert trapezoids <= steps + 1e-12


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_micro_average_precision_against_sklearn(seed):
    """scikit-learn knows only the pairs put forward; ours divides by all true pairs, so the ratio is their recall."""
    r = np.random.default_rng(seed)
    similarity, correct = r.standard_normal((6, 5)), r.random((6, 5)) < 0.4
    correct[0, 0] = True
    missed = int(r.integers(0, 4))
    ours = micro_average_precision(similarity, correct, int(correct.sum()) + missed)
    theirs = average_precision_score(correct.ravel(), similarity.ravel())
    assert ours == pytest.approx(theirs * correct.sum() / (correct.sum() + missed), abs=1e-12)


def test_micro_average_precision_ties_earn_nothing_and_scale_matters():
    flat = np.zeros(4)
    assert micro_average_precision(flat, np.array([True, False, False, False]), 1) == 0.25
    # two queries, each with its positive first: mean AP is 1, yet one threshold does not serve both
    similarity, correct = np.array([[0.9, 0.8], [0.3, 0.2]]), np.array([[True, False], [True, False]])
    assert micro_average_precision(similarity, correct, 2) == pytest.approx((1 + 2 / 3) / 2)


def test_micro_average_precision_interval_holds_the_value():
    r = np.random.default_rng(0)
    correct = np.eye(40, 5, dtype=bool) | (r.random((40, 5)) < 0.2)
    similarity = r.standard_normal((40, 5)) + correct
    value = micro_average_precision(similarity, correct, int(correct.sum()))
    low, high = micro_average_precision_interval(similarity, correct, correct.sum(axis=1), seed=1)
    assert low < value < high
    assert (low, high) == micro_average_precision_interval(similarity, correct, correct.sum(axis=1), seed=1)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=30)
def test_leave_one_out_is_one_query_at_a_time(seed, trapezoid):
    r = np.random.default_rng(seed)
    labels = r.integers(0, 4, 15)
    similarity = r.standard_normal((15, 15))
    queries = r.permutation(15)[:6]
    ap, recall = leave_one_out(similarity[queries], queries, labels, ks=(1, 5), trapezoid=trapezoid)
    for row, q in enumerate(queries):
        others = np.delete(np.arange(15), q)
        relevant = labels[others] == labels[q]
        if not relevant.any():
            assert np.isnan(ap[row]) and np.isnan(recall[row]).all()
            continue
        ranks = np.flatnonzero(relevant[np.argsort(-similarity[q, others], kind="stable")])
        assert ap[row] == pytest.approx(average_precision(ranks, len(ranks), trapezoid), abs=1e-12)
        assert recall[row].tolist() == [float(ranks[0] < 1), float(ranks[0] < 5)]
        if not trapezoid:
            assert ap[row] == pytest.approx(average_precision_score(relevant, similarity[q, others]), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 5), st.sampled_from([1, 3, 1000]), st.booleans())
@settings(deadline=None, max_examples=80)
def test_leave_one_out_is_the_sort_of_whole_rows(seed, n, classes, values, trapezoid):
    """Equal to the last bit where a stable sort ranks all images, ties by index, with few values and with many."""
    r = np.random.default_rng(seed)
    labels, queries = r.integers(-2, classes, n), r.permutation(n)[: max(1, n // 2)]
    similarity = (r.integers(-values, values + 1, (len(queries), n)) / values).astype(np.float32)
    found = leave_one_out(similarity, queries, labels, (1, 3), trapezoid)
    s = similarity.copy()
    s[np.arange(len(queries)), queries] = -np.inf
    match = labels[np.argsort(-s, axis=1, kind="stable")[:, :-1]] == labels[queries][:, None]
    for row, hits in enumerate(match):
        ranks = np.flatnonzero(hits)
        expected = average_precision(ranks, len(ranks), trapezoid)
        np.testing.assert_allclose(found[0][row], expected, rtol=1e-15)
        seen = [float((ranks < k).any()) if len(ranks) else np.nan for k in (1, 3)]
        np.testing.assert_array_equal(found[1][row], seen)


def test_leave_one_out_leaves_its_input_alone():
    similarity = np.ones((3, 3))
    leave_one_out(similarity, np.arange(3), np.array([0, 0, 1]))
    assert (similarity == 1).all()


def test_precision_cut_at_the_last_positive():
    assert precision_at(np.array([0, 1, 2]), 10) == 1.0
    assert np.isnan(precision_at(np.array([], dtype=int), 5))


def test_more_found_than_there_are():
    with pytest.raises(ValueError, match="3 positives found"):
        average_precision([0, 1, 2], 2)


def test_micro_average_precision_interval_by_plain_resampling():
    """The same draws, scored one by one with repeated rows: a pair drawn twice counts twice at one similarity."""
    r = np.random.default_rng(3)
    correct = r.random((12, 4)) < 0.3
    similarity = r.permutation(48).reshape(12, 4) / 48
    positives = correct.sum(axis=1) + 1
    draws, plain = np.random.default_rng(7), []
    for _ in range(50):
        rows = draws.integers(0, 12, 12)
        s, c = similarity[rows].ravel(), correct[rows].ravel()
        plain.append(average_precision_score(c, s) * c.sum() / positives[rows].sum())
    expected = np.quantile(plain, [0.025, 0.975])
    interval = micro_average_precision_interval(similarity, correct, positives, resamples=50, seed=7)
    np.testing.assert_allclose(interval, expected, atol=1e-12)
