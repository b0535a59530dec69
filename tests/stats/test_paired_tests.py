"""Paired tests against scipy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from dinobench.stats.paired_tests import BinaryPairs, PairedDifferences, bounds, holm, paired_test

counts = st.tuples(st.integers(1, 400), st.integers(0, 60), st.integers(0, 60)).map(
    lambda t: BinaryPairs(t[0] + t[1] + t[2], t[1], t[2])
)


@settings(deadline=None, max_examples=60)
@given(counts)
def test_mcnemar_is_that_of_statsmodels(found):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    table = [[found.n - found.won - found.lost, found.won], [found.lost, 0]]
    assert found.p() == pytest.approx(tables.mcnemar(table, exact=True).pvalue, rel=1e-9)
    if found.won + found.lost:
        assert found.p() == pytest.approx(scipy_stats.binomtest(found.won, found.won + found.lost).pvalue, rel=1e-9)


def _constrained_score(found: BinaryPairs, x: float) -> float:
    """Tango's statistic with its nuisance parameter found by maximising the likelihood, and not by his formula."""
    both = found.n - found.won - found.lost

    def loss(lost: float) -> float:
        shares = np.array([lost + x, lost, 1 - 2 * lost - x])
        return -float(np.sum(np.array([found.won, found.lost, both]) * np.log(np.maximum(shares, 1e-300))))

    lower, upper = max(0.0, -x), (1 - x) / 2
    lost = optimize.minimize_scalar(loss, bounds=(lower, upper), method="bounded", options={"xatol": 1e-12}).x
    return (found.won - found.lost - found.n * x) / np.sqrt(found.n * (2 * lost + x - x * x))


@settings(deadline=None, max_examples=40)
@given(counts.filter(lambda c: c.won and c.lost))
def test_the_interval_is_where_the_constrained_score_test_turns(found):
    low, high = found.interval()
    assert low < found.mean < high
    for bound, z in ((low, 1.959964), (high, -1.959964)):
        if abs(bound) < 0.999:
            assert _constrained_score(found, bound) == pytest.approx(z, abs=2e-3)


@settings(deadline=None, max_examples=40)
@given(counts, st.floats(-0.3, 0.3))
def test_turning_the_runs_round_turns_everything_round(found, x):
    back = BinaryPairs(found.n, found.lost, found.won)
    assert back.p() == found.p() and back.p_below(-x) == found.p_above(x)
    np.testing.assert_allclose(back.interval(), [-found.interval()[1], -found.interval()[0]], atol=1e-9)
    low, high = bounds(found, 0.05)
    assert -1 <= low <= found.mean <= high <= 1 and bounds(found, 0.01)[0] <= low
    assert (found.p_above(low + 1e-6) >= 0.05 - 1e-9 and found.p_above(low - 1e-6) <= 0.05 + 1e-3) or low == -1


def test_signs_are_flipped_as_scipy_permutes_them():
    rng = np.random.default_rng(0)
    for n in (6, 9, 40):
        d = rng.normal(0.3, 1, n)
        theirs = scipy_stats.permutation_test(
            (d, np.zeros(n)), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", vectorized=True,
            n_resamples=10_000, rng=1,
        ).pvalue  # fmt: skip
        assert paired_test(d, np.zeros(n)).p() == pytest.approx(theirs, abs=1e-9 if n < 13 else 0.015)


def test_without_clusters_the_one_sided_tests_are_near_scipys_t_test():
    d = np.random.default_rng(1).normal(0.02, 0.1, 200)
    found = paired_test(d, np.zeros(200))
    for x in (0.0, 0.01, 0.03):
        assert found.p_above(x) == pytest.approx(scipy_stats.ttest_1samp(d, x, alternative="greater").pvalue, abs=0.01)
        assert found.p_below(x) == pytest.approx(scipy_stats.ttest_1samp(d, x, alternative="less").pvalue, abs=0.01)
    few = paired_test(d[:8], np.zeros(8))
    np.testing.assert_allclose(few.interval(), scipy_stats.t.interval(0.95, 7, d[:8].mean(), scipy_stats.sem(d[:8])))


def test_the_error_of_clusters_is_statsmodels_cluster_robust_one():
    linear = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 12, 90)
    d = rng.normal(size=12)[groups] + rng.normal(size=90)
    found = paired_test(d, np.zeros(90), groups)
    fit = linear.OLS(d, np.ones(90)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}, use_t=False
    )
    assert isinstance(found, PairedDifferences) and found.groups == 12
    assert found.error == pytest.approx(float(fit.bse[0]) * np.sqrt(12 / 11), rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], atol=1e-12)


def test_the_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(3)
    for n, differing in ((200, 0.2), (2000, 0.05), (2000, 0.003)):
        found = BinaryPairs(n, round(n * differing / 2), n * differing - round(n * differing / 2))
        x = BinaryPairs(n, int(found.won), int(found.lost)).detectable()
        assert x is not None
        share = max(differing, x)
        draws = rng.multinomial(n, [(share + x) / 2, (share - x) / 2, 1 - share], 1500)
        p = {(w, lo): BinaryPairs(n, w, lo).p() for w, lo in {(int(w), int(lo)) for w, lo, _ in draws}}
        assert 0.75 < np.mean([p[int(w), int(lo)] <= 0.05 for w, lo, _ in draws]) < 0.86
    assert BinaryPairs(5, 1, 0).detectable() is None and paired_test(np.arange(5) / 7, np.zeros(5)).detectable() is None


@settings(deadline=None)
@given(n=st.integers(1, 60), data=st.data())
def test_every_table_has_an_interval_and_bounds(n, data):
    """Also one on which every item differs to one side, where there is nothing between the mean and the end."""
    won = data.draw(st.integers(0, n))
    pairs = BinaryPairs(n, won, data.draw(st.integers(0, n - won)))
    for low, high in (pairs.interval(), bounds(pairs, 0.05)):
        assert -1 <= low <= pairs.mean + 1e-9 and pairs.mean - 1e-9 <= high <= 1


@pytest.mark.parametrize(("won", "lost"), [(10, 0), (0, 10)])
def test_one_sided_tables_end_where_differences_do(won, lost):
    low, high = BinaryPairs(10, won, lost).interval()
    assert (high if won else low) == (1 if won else -1) and abs(low - high) > 0.2
