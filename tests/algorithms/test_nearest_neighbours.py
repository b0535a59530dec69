from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.algorithms import nearest_neighbours
from dinobench.algorithms.nearest_neighbours import normalise_rows, search


def vectors(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def oracle(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    product = queries.astype(np.float64) @ database.astype(np.float64).T
    index = np.argsort(-product, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(product, index, axis=1), index


@pytest.fixture(params=["faiss", "torch"])
def path(request, monkeypatch):
    """Both ways of searching a block; the accelerator's runs on the CPU too."""
    if request.param == "torch":
        monkeypatch.setattr(nearest_neighbours, "_block_faiss", nearest_neighbours._block_torch)
    return request.param


@pytest.mark.parametrize("block", [1, 7, 64, 300, 10_000])
@pytest.mark.parametrize("k", [1, 5, 300])
def test_equals_a_full_sort_whatever_the_block(path, monkeypatch, block, k):
    monkeypatch.setattr(nearest_neighbours, "BLOCK_ROWS", block)
    monkeypatch.setattr(nearest_neighbours, "TILE_SIMILARITIES", 1000)
    queries, database = vectors(40, 16, 1), vectors(300, 16, 2)
    similarity, index = search(queries, database, k)
    expected, order = oracle(queries, database, k)
    assert index.dtype == torch.int64 and similarity.dtype == torch.float32
    np.testing.assert_array_equal(index.numpy(), order)
    np.testing.assert_allclose(similarity.numpy(), expected, atol=1e-5)


def test_equal_similarities_come_by_index_across_blocks(path, monkeypatch):
    monkeypatch.setattr(nearest_neighbours, "BLOCK_ROWS", 3)
    database = np.tile(np.eye(2, dtype=np.float32), (5, 1))
    _, index = search(np.float32([[1, 0.5]]), database, 10)
    assert index.tolist() == [[0, 2, 4, 6, 8, 1, 3, 5, 7, 9]]


def test_both_zeros_are_equal(path, monkeypatch):
    monkeypatch.setattr(nearest_neighbours, "BLOCK_ROWS", 1)
    signed = np.float32([[-0.0], [0.0], [-0.0], [0.0]])
    _, index = search(np.float32([[1.0]]), signed, 4)
    assert index.tolist() == [[0, 1, 2, 3]]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-(2**100), 2**100, width=32, allow_subnormal=False), min_size=1, max_size=30),
    st.integers(0, 2**32 - 50),
)
def test_keys_keep_the_order_and_lose_nothing(values, offset):
    similarity = torch.tensor([values])
    index = torch.arange(len(values))[None]
    keys = nearest_neighbours._encode(similarity, index, offset)
    back, where = nearest_neighbours._decode(keys)
    assert torch.equal(back, similarity) and torch.equal(where, index + offset)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert keys.argsort(dim=1, descending=True).tolist() == [order]


def test_a_read_only_memory_map_of_half_precision(tmp_path, path):
    database = vectors(500, 8, 3).astype(np.float16)
    np.save(tmp_path / "bank.npy", database)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    queries = vectors(20, 8, 4)
    similarity, index = search(queries, mapped, 10, normalise=True)
    unit = database.astype(np.float64) / np.linalg.norm(database.astype(np.float64), axis=1, keepdims=True)
    expected, order = oracle(queries / np.linalg.norm(queries, axis=1, keepdims=True), unit, 10)
    np.testing.assert_allclose(similarity.numpy(), expected, atol=1e-6)
    assert (index.numpy() == order).mean() > 0.99  # half precision makes ties that rounding may order either way


def test_normalise_rows_leaves_zeros():
    unit = normalise_rows(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    torch.testing.assert_close(unit, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


def test_no_queries_give_no_rows(path):
    """What a process gets that has no share of a small test set."""
    similarity, index = search(vectors(0, 4, 0), vectors(10, 4, 0), 3)
    assert similarity.shape == index.shape == (0, 3)


@pytest.mark.parametrize(
    ("width", "k", "words"), [(3, 1, "columns"), (4, 0, "k = 0"), (4, 11, "k = 11 is not between 1 and the 10")]
)
def test_refuses_what_cannot_be_searched(width, k, words):
    with pytest.raises(ValueError, match=words):
        search(vectors(2, width, 0), vectors(10, 4, 0), k)


def test_reports_progress_by_block(monkeypatch):
    monkeypatch.setattr(nearest_neighbours, "BLOCK_ROWS", 4)
    told = []

    def progress(iterable, description, total):
        told.append((description, total))
        return iter(iterable)

    search(vectors(2, 4, 0), vectors(10, 4, 0), 3, progress=progress)
    assert told == [("Searching neighbours", 3)]
