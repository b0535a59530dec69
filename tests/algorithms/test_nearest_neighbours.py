from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinobench.algorithms import nearest_neighbours
from dinobench.algorithms.nearest_neighbours import normalise_rows, search
from dinobench.errors import UserError


def vectors(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def oracle(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    product = queries.astype(np.float64) @ database.astype(np.float64).T
    index = np.argsort(-product, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(product, index, axis=1), index


@pytest.fixture(params=["cpu", "accelerator"])
def path(request, monkeypatch):
    """Both ways of selecting; the accelerator's runs on the CPU too."""
    if request.param == "accelerator":
        monkeypatch.setattr(nearest_neighbours, "_on_cpu", lambda tensor: False)
    return request.param


def small_blocks(monkeypatch, numbers, tile=1000, group=4, chunk=64, passing=12):
    """Limits so small that a few rows fall into several blocks, tiles, groups and chunks."""
    for name, value in {
        "BLOCK_NUMBERS": numbers, "TILE_CPU": tile, "TILE_ACCELERATOR": tile, "GROUP": group,
        "CHUNK_NUMBERS": chunk, "PASSING": passing,
    }.items():  # fmt: skip
        monkeypatch.setattr(nearest_neighbours, name, value)


@pytest.mark.parametrize("block", [1, 7, 64, 300, 10_000])
@pytest.mark.parametrize("k", [1, 5, 300])
@pytest.mark.parametrize("tile", [1, 1000, 100_000])
def test_equals_a_full_sort_whatever_the_block(path, monkeypatch, block, k, tile):
    small_blocks(monkeypatch, block * 16, tile)
    queries, database = vectors(40, 16, 1), vectors(300, 16, 2)
    similarity, index = search(queries, database, k)
    expected, order = oracle(queries, database, k)
    assert index.dtype == torch.int64 and similarity.dtype == torch.float32
    np.testing.assert_array_equal(index.numpy(), order)
    np.testing.assert_allclose(similarity.numpy(), expected, atol=1e-5)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 4), st.integers(1, 90), st.integers(1, 40),
    st.sampled_from([8, 100, 10_000]),
)  # fmt: skip
def test_whole_numbers_that_tie_everywhere_come_as_a_stable_sort_has_them(path, seed, n, values, k, rows, tile):
    """Their products are exact, so nothing but the order of equal ones is left, at the k-th place too."""
    r = np.random.default_rng(seed)
    queries, database = (r.integers(-values, values + 1, (m, 2)).astype(np.float32) for m in (7, n))
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, 2 * rows, tile)
        similarity, index = search(queries, database, min(k, n))
    expected, order = oracle(queries, database, min(k, n))
    np.testing.assert_array_equal(index.numpy(), order)
    np.testing.assert_array_equal(similarity.numpy(), expected)


@pytest.mark.parametrize(("queries", "n", "k"), [(20, 400_000, 20), (700, 60_000, 200)])
def test_agrees_with_numpy_on_full_sizes(monkeypatch, queries, n, k):
    """Groups, chunks and tiles as they are; the first in several blocks and in passing, the second in two tiles."""
    monkeypatch.setattr(nearest_neighbours, "BLOCK_NUMBERS", 2**20)
    left, database = unit(vectors(queries, 8, 5)), unit(vectors(n, 8, 6))
    similarity, index = search(left, database, k, normalise=True)
    some = slice(0, None, 23)
    product = left[some] @ database.T
    np.testing.assert_allclose(similarity[some].numpy(), -np.sort(-product, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(
        similarity[some].numpy(), np.take_along_axis(product, index[some].numpy(), axis=1), atol=1e-6
    )
    assert all(len(set(row)) == k for row in index.tolist())


def test_copies_of_a_row_tie_wherever_they_stand_and_whoever_asks_beside():
    """The multiplication adds up alike in every place of a tile, at its edges too."""
    base = vectors(1, 384, 7)
    database = vectors(40_003, 384, 8)
    places = np.array([0, 1, 31, 32, 8191, 8192, 20_000, 39_999, 40_002])
    database[places] = base
    queries = np.concatenate([base, vectors(99, 384, 9)])
    similarity, index = search(queries, database, 12, normalise=True)
    assert index[0, :9].tolist() == places.tolist()
    for count in (1, 2, 17):  # as a process gets them that has a share of the queries
        fewer, where = search(queries[:count], database, 12, normalise=True)
        assert torch.equal(where, index[:count]) and torch.equal(fewer, similarity[:count])
    _, alone = search(base, database[places[-2:]], 2, normalise=True)
    assert alone.tolist() == [[0, 1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalise", [True, False])
def test_what_is_not_finite_has_no_neighbours(bad, normalise):
    clean, broken = vectors(300, 4, 1), vectors(300, 4, 1)
    broken[123, 2] = bad
    for pair in ((clean, broken), (broken, clean)):
        with pytest.raises(UserError, match="not finite"):
            search(*pair, 3, normalise=normalise)


def test_products_beyond_float32_are_an_error_and_no_wrong_neighbours():
    """Neither NaN nor minus infinity can be told from what is not there."""
    big = np.full((40, 4), 1e30, np.float32)
    with pytest.raises(UserError, match="too large"):
        search(-big, big, 3)


@pytest.mark.parametrize("n", [900, 5000])
def test_all_equal_similarities_are_the_first(path, n):
    """Everything is a candidate then, in groups and without."""
    similarity, index = search(np.ones((70, 3), np.float32), np.ones((n, 3), np.float32), 7)
    assert index.tolist() == [list(range(7))] * 70 and (similarity == 3).all()


def test_equal_similarities_come_by_index_across_blocks(path, monkeypatch):
    small_blocks(monkeypatch, 8)
    database = np.tile(np.eye(2, dtype=np.float32), (5, 1))
    _, index = search(np.float32([[1, 0.5]]), database, 10)
    assert index.tolist() == [[0, 2, 4, 6, 8, 1, 3, 5, 7, 9]]


def test_both_zeros_are_equal(path, monkeypatch):
    small_blocks(monkeypatch, 1, group=1)
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
    down = nearest_neighbours._down(offset, len(values), similarity.device)
    keys = nearest_neighbours._encode(similarity, down)
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
    small_blocks(monkeypatch, 16)
    told = []

    def progress(iterable, description, total):
        told.append((description, total))
        return iter(iterable)

    search(vectors(2, 4, 0), vectors(10, 4, 0), 3, progress=progress)
    assert told == [("Searching neighbours", 3)]


@pytest.mark.parametrize("normalise", [False, True])
def test_no_float64_is_sent_to_the_device(monkeypatch, normalise):
    """Metal has none."""
    sent = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *args, **options: sent.append(x.dtype) or to(x, *args, **options))
    queries, database = (vectors(n, 8, n).astype(np.float64) for n in (5, 40))
    search(queries, database, 3, normalise=normalise)
    assert sent and torch.float64 not in sent
