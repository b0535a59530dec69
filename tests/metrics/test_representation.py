"""Label-free measures against golden values and plain second implementations."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.golden import golden_values
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from dinobench.metrics import representation
from dinobench.metrics.representation import (
    alignment,
    alpha_req,
    cka,
    cka_table,
    cluster_accuracy,
    covariance_eigenvalues,
    lidar,
    lidar_reptrix,
    match_clusters,
    power_law,
    rankme,
    rankme_reptrix,
    twonn,
    uniformity,
)

NEXT = golden_values("label_free")
CLOSE = dict(rel=1e-4)


def seeds_of(part):
    return pytest.mark.parametrize("golden", NEXT[part], ids=lambda e: f"seed{e['seed']}")


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@seeds_of("spectrum")
def test_golden_spectrum(golden):
    r, n, d = np.random.default_rng(golden["seed"]), golden["n"], golden["d"]
    u = r.standard_normal((n, d)) * np.arange(1, d + 1) ** -golden["decay"]
    Z = u @ np.linalg.qr(r.standard_normal((d, d)))[0] + 0.3 * r.standard_normal(d)
    lo, hi = golden["fit_range_0based_half_open"]
    assert rankme(Z) == pytest.approx(golden["rankme"], **CLOSE)
    assert rankme(unit(Z)) == pytest.approx(golden["rankme_of_rows_L2"], **CLOSE)
    wanted = golden["reptrix_rankme_on_centred_covariance_eigenvalues"]
    assert rankme_reptrix(Z) == pytest.approx(wanted, **CLOSE)
    assert alpha_req(Z, lo, hi) == pytest.approx(golden["alpha_req_reptrix"], **CLOSE)
    assert power_law(covariance_eigenvalues(Z), lo, hi).r2 == pytest.approx(golden["reptrix_r2_100"], **CLOSE)


@seeds_of("lidar")
def test_golden_lidar(golden):
    r, n, q, d = np.random.default_rng(golden["seed"]), golden["n"], golden["q"], golden["d"]
    E = r.standard_normal((n, 1, d)) * np.arange(1, d + 1) ** -0.7 + 0.3 * r.standard_normal((n, q, d))
    assert lidar(E) == pytest.approx(golden["lidar_delta_1e-4_eps_1e-7"], **CLOSE)
    assert lidar(E, delta=1e-6) == pytest.approx(golden["lidar_delta_1e-6"], **CLOSE)
    (squared,) = (value for key, value in golden.items() if key.startswith("reptrix"))
    assert lidar_reptrix(E) == pytest.approx(squared, **CLOSE)


@seeds_of("align_uniform")
def test_golden_alignment_and_uniformity(golden):
    r = np.random.default_rng(golden["seed"])
    x = r.standard_normal((120, 24))
    y = x + 0.4 * r.standard_normal((120, 24))
    assert alignment(unit(x), unit(y)) == pytest.approx(golden["align_alpha2"], **CLOSE)
    assert alignment(x, y, alpha=1) == pytest.approx(golden["align_alpha1"], **CLOSE)
    assert uniformity(x) == pytest.approx(golden["uniform_t2"], **CLOSE)
    assert uniformity(x, t=3) == pytest.approx(golden["uniform_t3"], **CLOSE)
    assert (uniformity(x) + uniformity(y)) / 2 == pytest.approx(golden["paper_total_(uniform x + y)/2"], **CLOSE)


@seeds_of("clustering")
def test_golden_clustering(golden):
    r = np.random.default_rng(golden["seed"])
    y, perm = r.integers(0, 7, 400), r.permutation(7)
    pred = np.where(r.random(400) < 0.7, perm[y], r.integers(0, 7, 400))
    over = 2 * pred + (r.random(400) < 0.5)
    assert cluster_accuracy(pred, y) == pytest.approx(golden["accuracy_hungarian"])
    assert {str(k): v for k, v in match_clusters(pred, y).items()} == golden["match_cluster_to_class"]
    for clusters, wanted in ((pred, golden), (over, golden["overclustered_14"])):
        assert normalized_mutual_info_score(y, clusters) == pytest.approx(wanted["nmi"])
        assert adjusted_rand_score(y, clusters) == pytest.approx(wanted["ari"])
    wanted = golden["overclustered_14"]
    assert cluster_accuracy(over, y) == pytest.approx(wanted["accuracy_one_to_one"])
    assert cluster_accuracy(over, y, one_to_one=False) == pytest.approx(wanted["accuracy_many_to_one (purity)"])


@seeds_of("cka")
def test_golden_cka(golden):
    r = np.random.default_rng(golden["seed"])
    X = r.standard_normal((90, 20)) + 0.5
    Y = X @ r.standard_normal((20, 31)) + 2 * r.standard_normal((90, 31))
    assert cka(X, Y) == pytest.approx(golden["linear"], **CLOSE)
    assert cka(X, X) == pytest.approx(golden["linear_XX"], **CLOSE)
    assert cka(X, Y, "debiased") == pytest.approx(golden["linear_unbiased_hsic1"], **CLOSE)
    assert cka(X, Y, "rbf") == pytest.approx(golden["rbf_median_factor_1"], **CLOSE)
    assert cka(X, Y, "rbf", sigma=0.5) == pytest.approx(golden["rbf_median_factor_0.5"], **CLOSE)


@seeds_of("twonn")
def test_golden_twonn(golden):
    r, d = np.random.default_rng(golden["seed"]), golden["true_dimension"]
    X = r.random((800, d)) @ r.standard_normal((d, 40))
    assert twonn(X) == pytest.approx(golden["dadapy_base_fraction_0.9"], **CLOSE)
    assert twonn(X, "likelihood") == pytest.approx(golden["dadapy_ml"], **CLOSE)
    twice = np.concatenate([X, X[:50]])
    assert twonn(twice) == pytest.approx(golden["own_least_squares_through_0"], rel=1e-9)


some = st.integers(0, 10_000)


@settings(deadline=None, max_examples=25)
@given(some, st.integers(4, 40), st.integers(1, 12), st.integers(1, 12))
def test_debiased_cka_is_the_unbiased_estimate_written_out(seed, n, d, e):
    """HSIC of Song et al. 2012, equation 5, with whole kernels."""
    r = np.random.default_rng(seed)
    X, Y = r.standard_normal((n, d)) + 2, r.standard_normal((n, e)) - 1

    def hsic(A, B):
        K, L = A @ A.T, B @ B.T
        np.fill_diagonal(K, 0)
        np.fill_diagonal(L, 0)
        one = np.ones(n)
        return (
            np.trace(K @ L)
            + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ K @ L @ one)
        ) / (n * (n - 3) or 1)

    if hsic(X, X) <= 0 or hsic(Y, Y) <= 0:
        return
    assert cka(X, Y, "debiased") == pytest.approx(hsic(X, Y) / np.sqrt(hsic(X, X) * hsic(Y, Y)), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(some, st.floats(0.01, 100))
def test_likeness_and_rank_do_not_see_rotation_and_scale(seed, scale):
    r = np.random.default_rng(seed)
    X, Y = r.standard_normal((30, 6)), r.standard_normal((30, 4))
    turn = np.linalg.qr(r.standard_normal((6, 6)))[0]
    other = scale * X @ turn
    for kind in ("linear", "debiased", "rbf"):
        assert cka(other, Y, kind) == pytest.approx(cka(X, Y, kind), rel=1e-6)
        assert cka(other, X, kind) == pytest.approx(1)
    assert rankme(other) == pytest.approx(rankme(X)) and twonn(other) == pytest.approx(twonn(X))
    assert 1 <= rankme(X) <= 6.001


@settings(deadline=None, max_examples=20)
@given(some, st.integers(2, 60))
def test_uniformity_is_the_mean_over_pairs(seed, n):
    x = np.random.default_rng(seed).standard_normal((n, 5))
    wanted = np.log(np.exp(-2 * pdist(unit(x), "sqeuclidean")).mean())
    assert uniformity(x) == pytest.approx(wanted)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40), st.permutations(range(4)))
def test_names_of_clusters_do_not_matter_and_purity_is_never_less(pairs, names):
    pred, y = map(np.array, zip(*pairs, strict=True))
    assert cluster_accuracy(np.array(names)[pred] * 7, y) == pytest.approx(cluster_accuracy(pred, y))
    assert cluster_accuracy(pred, y, one_to_one=False) >= cluster_accuracy(pred, y)


def test_blocks_of_rows_make_no_difference(monkeypatch):
    X = np.random.default_rng(0).standard_normal((101, 7))
    wanted = uniformity(X), twonn(X)
    monkeypatch.setattr(representation, "AT_ONCE", 1000)
    assert (uniformity(X), twonn(X)) == pytest.approx(wanted)


def test_a_table_of_blocks_holds_every_pair():
    r = np.random.default_rng(0)
    A, B = [r.standard_normal((20, d)) for d in (3, 4)], [r.standard_normal((20, d)) for d in (5, 6, 7)]
    table = cka_table(A, B, debiased=True)
    assert table.shape == (2, 3) and table[1, 2] == pytest.approx(cka(A[1], B[2], "debiased"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: rankme(np.ones(3)),
        lambda: rankme(np.zeros((3, 2))),
        lambda: alpha_req(np.ones((200, 200))),
        lambda: alpha_req(np.random.default_rng(0).standard_normal((50, 200))),
        lambda: lidar(np.ones((4, 1, 3))),
        lambda: lidar(np.ones((4, 2, 3))),
        lambda: uniformity(np.ones((1, 3))),
        lambda: cka(np.ones((5, 2)), np.eye(5)),
        lambda: cka(np.ones((5, 2)), np.eye(5), "rbf"),
        lambda: cka(np.eye(4), np.eye(5)),
        lambda: cka(np.eye(3), np.eye(3), "debiased"),
        lambda: twonn(np.ones((50, 2))),
    ],
)
def test_what_means_nothing_is_refused(call):
    with pytest.raises(ValueError):
        call()
