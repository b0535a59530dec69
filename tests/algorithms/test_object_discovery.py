"""Graphs over patches: the iterative eigenvector against the published dense one, boxes against scenes told by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from scipy.sparse.linalg import ArpackNoConvergence

from dinobench.algorithms import object_discovery
from dinobench.algorithms.object_discovery import (
    bipartition,
    box_of,
    component,
    dense_second_eigenvector,
    dinoseg,
    joined,
    lost,
    second_eigenvector,
    tokencut,
)


def scene(seed: int, grid: tuple[int, int] = (9, 12), dim: int = 16, noise: float = 0.4) -> torch.Tensor:
    """Features (N, D) of one object on a background that it is unlike, both noisy."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(grid, bool)
    inside[2:6, 3:8] = True
    kinds = rng.standard_normal((2, dim))
    kinds[1] -= kinds[0] * (0.5 + (kinds[0] @ kinds[1]) / (kinds[0] @ kinds[0]))
    features = kinds[inside.ravel().astype(int)] + noise * rng.standard_normal((inside.size, dim))
    return torch.from_numpy(features.astype(np.float32))


def lost_written_out(features: np.ndarray, candidates: int) -> tuple[np.ndarray, int]:
    """As the paper has it, patch by patch."""
    n = len(features)
    product = features @ features.T
    degree = [sum(product[p, q] > 0 for q in range(n) if q != p) for p in range(n)]
    order = sorted(range(n), key=lambda p: (degree[p], p))
    kept = [p for p in order[:candidates] if product[order[0], p] > 0]
    return sum(product[p] for p in kept) > 0, order[0]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), candidates=st.integers(1, 120), noise=st.floats(0, 2))
def test_lost_is_the_papers(seed, candidates, noise):
    features = scene(seed, noise=noise).double()
    found = lost(features, (9, 12), candidates)
    mask, seed = lost_written_out(features.numpy(), candidates)
    assert found.seed == seed and found.mask.ravel()[seed]
    labels, _ = label(mask.reshape(9, 12))
    assert (found.mask == (labels == labels.flat[seed])).all()


def test_both_find_a_clear_object():
    for seed in range(5):
        for method in (lost, tokencut):
            assert box_of(method(scene(seed), (9, 12)).mask, (16, 16)).tolist() == [48, 32, 128, 96]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 120), share=st.floats(0.02, 0.98))
def test_the_iteration_gives_the_dense_eigenvector(seed, n, share):
    """Compared by the quotient that it minimises, since of equal eigenvalues any vector will do."""
    rng = np.random.default_rng(seed)
    edges = rng.random((n, n)) < share
    edges |= edges.T | np.eye(n, dtype=bool)
    ours, dense = second_eigenvector(edges), dense_second_eigenvector(edges)
    weights = np.where(edges, 1.0, object_discovery.EPS)
    degrees = weights.sum(1)

    def quotient(x):
        return (x @ (degrees * x) - x @ weights @ x) / (x @ (degrees * x))

    assert quotient(ours) == pytest.approx(quotient(dense), abs=1e-9)
    assert abs(ours @ degrees) < 1e-6 * np.abs(ours * degrees).sum()  # no part of the constant one
    assert np.array_equal(ours, second_eigenvector(edges))


@pytest.mark.parametrize("n", [30, 120])
def test_patches_of_separate_blocks(n):
    """Edges within three blocks only: three eigenvalues near 1, told apart by the blocks' sizes."""
    block = np.repeat([0, 1, 2], [n // 6, n // 3, n - n // 6 - n // 3])
    edges = block[:, None] == block
    ours, dense = second_eigenvector(edges), dense_second_eigenvector(edges)
    assert (bipartition(ours)[1] == bipartition(dense)[1]).all()


def test_where_the_iteration_fails_the_dense_solver_decides(monkeypatch):
    def fails(*args, **kwargs):
        raise ArpackNoConvergence("no", np.zeros(0), np.zeros((0, 0)))

    edges = joined(scene(0))
    dense = dense_second_eigenvector(edges)
    monkeypatch.setattr(object_discovery, "eigsh", fails)
    assert np.array_equal(second_eigenvector(edges), dense)


def test_graphs_keep_their_precision_under_autocast():
    features = scene(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = joined(features)
        found = lost(features, (9, 12))
    assert np.array_equal(mixed, joined(features))
    assert np.array_equal(found.mask, lost(features, (9, 12)).mask)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100))
def test_what_does_not_matter(seed, scale):
    """TokenCut takes directions, both methods no sign, no order of channels and no length of all features together."""
    features = scene(seed)
    turned = scale * features[:, torch.randperm(16, generator=torch.Generator().manual_seed(seed))]
    for method in (lost, tokencut):
        assert (method(features.double(), (9, 12)).mask == method(-turned.double(), (9, 12)).mask).all()


def test_the_seeds_side_is_the_object_whatever_the_sign():
    vector = np.array([0.1, 0.2, -0.9, 0.1])
    for sign in (1, -1):
        seed, side = bipartition(sign * vector)
        assert seed == 2 and side.tolist() == [False, False, True, False]


def test_parts_touch_at_sides_not_at_corners():
    mask = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 1]], bool)
    assert component(mask, 0).sum() == 2 and component(mask, 8).sum() == 2
    assert component(mask, 2).tolist() == [[False, False, True], [False] * 3, [False] * 3]


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 2)])
def test_images_of_few_patches(grid):
    features = torch.randn(grid[0] * grid[1], 4, generator=torch.Generator().manual_seed(0))
    for method in (lost, tokencut):
        assert method(features, grid).mask.any()
        assert method(torch.ones_like(features), grid).mask.any()


def test_dinoseg_forgets_the_last_component():
    attention = np.zeros((3, 5))
    attention[0, 0], attention[2, :3] = 3, 2  # one patch first, three after it
    released, largest = dinoseg(attention.ravel(), (3, 5), 0.99)
    assert np.flatnonzero(released).tolist() == [0] and np.flatnonzero(largest).tolist() == [10, 11, 12]
    attention[0, 0] = 0  # one component: the release takes what is not attended to
    released, largest = dinoseg(attention.ravel(), (3, 5), 0.99)
    assert (released == ~largest).all()
    released, largest = dinoseg(np.ones(6), (2, 3), 1.0)
    assert released.all() and largest.all()
