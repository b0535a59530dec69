"""Rankings on the device: what a stable sort of whole rows gives, by the host's way and by the device's."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from helpers.host_reads import HostReads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinobench.algorithms import ranking
from dinobench.metrics import retrieval


@pytest.fixture(params=["host", "device"])
def way(request, monkeypatch):
    """Both ways of ranking; the device's runs on the CPU too."""
    if request.param == "device":
        monkeypatch.setattr(ranking, "RANKED_BY_HOST", ())
    return request.param


def some(seed: int, queries: int, n: int, values: int) -> np.ndarray:
    """(queries, n) float32 with ties where `values` are few."""
    return (np.random.default_rng(seed).integers(-values, values + 1, (queries, n)) / values).astype(np.float32)


def test_doctests():
    assert doctest.testmod(ranking).failed == 0


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.sampled_from([1, 3, 1000]), st.integers(0, 5))
def test_places_are_those_of_a_stable_sort(way, seed, n, values, wanted):
    similarity = some(seed, 4, n, values)
    images = np.random.default_rng(seed).integers(0, n, (4, wanted))
    order = np.argsort(-similarity, axis=1, kind="stable")
    expected = np.take_along_axis(np.argsort(order, axis=1), images, axis=1)
    found = ranking.places(torch.from_numpy(similarity), torch.from_numpy(images))
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 5), st.sampled_from([1, 3, 1000]), st.booleans()
)  # fmt: skip
def test_leave_one_out_is_that_of_the_arrays(way, seed, n, classes, values, trapezoid):
    r = np.random.default_rng(seed)
    labels, queries = r.integers(-2, classes, n), r.permutation(n)[: max(1, n // 2)]
    arrays = some(seed, len(queries), n, values), queries, labels
    expected = retrieval.leave_one_out(*arrays, (1, 3), trapezoid)
    before = arrays[0].copy()
    ap, recall = ranking.leave_one_out(*map(torch.from_numpy, arrays), (1, 3), trapezoid)
    assert ap.dtype == recall.dtype == torch.float64
    np.testing.assert_allclose(ap.numpy(), expected[0], rtol=2e-15)
    np.testing.assert_array_equal(recall.numpy(), expected[1])
    np.testing.assert_array_equal(arrays[0], before)


def test_no_queries_and_nothing_wanted(way):
    none, labels = torch.zeros(0, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    ap, recall = ranking.leave_one_out(torch.zeros(0, 5), none, labels)
    assert ap.shape == (0,) and recall.shape == (0, 3) and ap.dtype == recall.dtype == torch.float64
    assert ranking.nearest_and_places(torch.zeros(0, 2), torch.zeros(5, 2), none.view(0, 4)).shape == (0, 5)
    assert ranking.nearest_and_places(torch.ones(3, 2), torch.ones(5, 2), none.expand(3, 0)).tolist() == [[0]] * 3


def test_the_device_is_not_waited_for(monkeypatch):
    """Neither a query at a time nor a tile."""
    monkeypatch.setattr(ranking, "RANKED_BY_HOST", ())
    similarity = torch.from_numpy(some(0, 6, 20, 1000))
    labels, queries, wanted = torch.arange(20) % 3, torch.arange(6), torch.arange(12).view(6, 2)
    with HostReads() as reads:
        ranking.leave_one_out(similarity, queries, labels)
        ranking.places(similarity, wanted)
    assert not reads.lines, reads


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize(("queries", "database"), [(0, 3), (1, 1), (600, 1000), (3, 2**26)])
def test_tiles_of_all_processes_are_those_of_one(queries, database, processes):
    def part(rank):
        return lambda n: slice(n * rank // processes, n * (rank + 1) // processes)

    alone = ranking.tiles(queries, database, lambda n: slice(0, n))
    shared = [tile for rank in range(processes) for tile in ranking.tiles(queries, database, part(rank))]
    asked = [i for tile in shared for i in range(queries)[tile]]
    assert asked == list(range(queries))
    assert [t for t in shared if t.stop > t.start] == [t for t in alone if t.stop > t.start]
    assert all((t.stop - t.start) * database <= max(ranking.SIMILARITIES, database) for t in shared)
