from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from dinobench.stats import intervals
from dinobench.stats.intervals import RESAMPLES, bootstrap_interval, interval, wilson_interval


@pytest.fixture(params=["counts", "items"])
def way(request, monkeypatch):
    """Both ways to resample, the second as if few distinct scores were many."""
    if request.param == "items":
        monkeypatch.setattr(intervals, "MANY", 0)
        monkeypatch.setattr(intervals, "DRAWS_A_COUNT", 10**9)
    return request.param


@pytest.mark.parametrize(("n", "right"), [(100, 70), (450, 440), (2000, 900)])
def test_right_or_wrong_is_the_exact_binomial(n, right, way):
    """A resampled share of right answers is binomial: its quantiles are known without sampling."""
    low, high = bootstrap_interval(np.repeat([1.0, 0.0], [right, n - right]))
    exact = scipy_stats.binom.ppf([0.025, 0.975], n, right / n) / n
    error = 3 * np.sqrt(0.025 * 0.975 / RESAMPLES) * np.sqrt(right * (n - right) / n) / n / 0.058  # of a quantile
    np.testing.assert_allclose([low, high], exact, atol=error + 1 / n)


def test_agrees_with_scipy_on_real_scores(way):
    scores = np.random.default_rng(1).beta(2, 5, 300)
    ours = bootstrap_interval(scores)
    theirs = scipy_stats.bootstrap(
        (scores,), np.mean, method="percentile", n_resamples=RESAMPLES, random_state=0, vectorized=True
    ).confidence_interval
    spread = theirs.high - theirs.low
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.03 * spread)


def test_clusters_agree_with_resampling_them_by_hand(way):
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 12, 200)
    scores = rng.normal(size=12)[clusters] + 0.3 * rng.normal(size=200)
    groups = [scores[clusters == c] for c in np.unique(clusters)]
    means = [np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean() for _ in range(5000)]
    expected = np.quantile(means, [0.025, 0.975])
    got = bootstrap_interval(scores, clusters=np.array([f"video {c}" for c in clusters]))
    np.testing.assert_allclose(got, expected, atol=0.05 * (expected[1] - expected[0]))
    alone = bootstrap_interval(scores)
    assert got[1] - got[0] > 1.5 * (alone[1] - alone[0])  # items of a cluster resemble each other


def test_clusters_of_one_item_are_items():
    scores = np.random.default_rng(3).normal(size=80)
    apart = bootstrap_interval(scores, clusters=np.arange(80))
    np.testing.assert_allclose(apart, bootstrap_interval(scores), atol=0.03)


def test_covers_the_truth_as_often_as_it_says(way, monkeypatch):
    if way == "items":
        monkeypatch.setattr(intervals, "RESAMPLES", 500)
    rng = np.random.default_rng(4)
    truth, covered, trials = 0.7, 0, 400
    for trial in range(trials):
        low, high = bootstrap_interval((rng.random(300) < truth).astype(float), seed=trial)
        covered += low <= truth <= high
    assert 0.92 <= covered / trials <= 0.98  # 0.95 within three standard errors of 400 trials


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 5))
def test_holds_the_mean_lies_within_the_scores_and_repeats(scores, seed):
    low, high = bootstrap_interval(np.array(scores), seed=seed)
    assert min(scores) - 1e-9 <= low <= np.mean(scores) + 1e-9 and np.mean(scores) - 1e-9 <= high <= max(scores) + 1e-9
    assert (low, high) == bootstrap_interval(np.array(scores), seed=seed)


@settings(deadline=None, max_examples=10)
@given(st.permutations(list(range(12))))
def test_the_order_of_items_is_nothing(order):
    scores = np.random.default_rng(5).random(12)
    assert bootstrap_interval(scores[order]) == bootstrap_interval(scores)


def test_another_seed_draws_anew_and_a_wider_level_is_wider():
    scores = np.random.default_rng(6).random(50)
    assert bootstrap_interval(scores, seed=1) != bootstrap_interval(scores, seed=2)
    narrow, wide = bootstrap_interval(scores, level=0.5), bootstrap_interval(scores, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_many_distinct_scores_are_drawn_item_by_item_and_whatever_the_threads(monkeypatch):
    """The spread is the standard error's, the same on one core and many, and independent of the items' order."""
    monkeypatch.setattr(intervals, "RESAMPLES", 2000)
    scores = np.random.default_rng(7).random(6000)
    low, high = bootstrap_interval(scores, seed=3)
    error = scores.std() / np.sqrt(len(scores))
    np.testing.assert_allclose([low, high], scores.mean() + 1.96 * error * np.array([-1, 1]), atol=0.15 * error)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert bootstrap_interval(scores[::-1], seed=3) == (low, high) != bootstrap_interval(scores, seed=4)
    clusters = np.repeat(np.arange(5000), np.random.default_rng(8).integers(1, 4, 5000))
    values = np.random.default_rng(9).random(len(clusters))
    low, high = bootstrap_interval(values, clusters=clusters)
    assert low < values.mean() < high


def test_up_to_many_distinct_scores_keep_the_intervals_of_earlier_records():
    scores = np.random.default_rng(10).random(3925)
    rng, few = np.random.default_rng(0), np.unique(scores)
    means = rng.multinomial(3925, np.full(3925, 1 / 3925), size=100) @ few / 3925
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 100)
        assert bootstrap_interval(scores) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-15)


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval(np.array([]))


def test_a_million_right_or_wrong_scores_need_no_million_draws():
    """Drawn one by one they would be 10^10 draws, and this test would not end."""
    low, high = bootstrap_interval(np.arange(1_000_000) % 4 == 0)
    assert 0.249 < low < 0.25 < high < 0.251


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (1, 450), (199, 200), (7, 2000)])
def test_nearly_all_right_or_wrong_is_wilsons_interval(right, n):
    expected = scipy_stats.binomtest(right, n).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson_interval(right, n), expected, atol=1e-12)
    assert interval(np.repeat([1.0, 0.0], [right, n - right])) == wilson_interval(right, n)


def test_right_or_wrong_with_enough_of_each_is_the_bootstrap():
    scores = np.repeat([1.0, 0.0], [40, 10])
    assert interval(scores, seed=3) == bootstrap_interval(scores, seed=3)


def test_few_groups_are_students_interval():
    scores = np.random.default_rng(5).normal(size=12)
    low, high = scipy_stats.t.interval(0.95, 11, scores.mean(), scipy_stats.sem(scores))
    np.testing.assert_allclose(interval(scores), (low, high))
    repeated = np.repeat(scores, 3), np.repeat(np.arange(12), 3)
    np.testing.assert_allclose(interval(repeated[0], clusters=repeated[1]), (low, high))
    assert interval(np.array([0.5])) is None and interval(repeated[0], clusters=np.zeros(36)) is None
    assert interval(np.array([0.0, 1.0]), clusters=np.arange(2)) == (0.0, 1.0)  # a share is never outside


def test_many_groups_are_the_bootstrap():
    scores = np.random.default_rng(6).normal(size=60)
    assert interval(scores) == bootstrap_interval(scores)


@pytest.mark.parametrize(("n", "share"), [(100, 0.02), (100, 0.97), (200, 0.01), (450, 0.99), (100, 0.5)])
def test_covers_shares_near_the_ends(n, share, monkeypatch):
    """Over all numbers of right answers, each weighted by how likely it is; coverage of a discrete thing is ragged."""
    monkeypatch.setattr("dinobench.stats.intervals.RESAMPLES", 2000)
    covered = 0.0
    for right in range(n + 1):
        if (likely := float(scipy_stats.binom.pmf(right, n, share))) > 1e-6:
            low, high = interval(np.repeat([1.0, 0.0], [right, n - right]))
            covered += likely * (low - 1e-9 <= share <= high + 1e-9)
    assert 0.93 <= covered <= 0.98


@pytest.mark.parametrize("videos", [8, 20])
def test_covers_means_over_few_videos(videos):
    rng, trials, covered = np.random.default_rng(7), 1000, 0
    clusters = np.repeat(np.arange(videos), 2)
    for _ in range(trials):
        scores = rng.normal(0, 0.2, videos)[clusters] + rng.normal(0, 0.1, 2 * videos)
        low, high = interval(scores, clusters=clusters)
        covered += low <= 0 <= high
    assert 0.93 - 0.02 <= covered / trials <= 0.97 + 0.015
