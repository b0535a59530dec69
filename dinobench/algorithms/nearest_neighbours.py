"""Exact nearest neighbours by inner product, streamed over the database.

Memory does not grow with the database, which may be a memory-mapped file: it is read in blocks, each block is
searched exactly, and its best are merged with the best so far. On the CPU a block is searched by faiss, whose fused
product-and-select stays within a few per cent of the bare matrix product; on an accelerator by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

#: Rows of the database held in float32 at a time: 100 MB at 384 numbers a row.
BLOCK_ROWS = 65_536
#: Similarities on an accelerator at a time: 1 GB in float32.
TILE_SIMILARITIES = 2**28


def normalise_rows(rows: torch.Tensor) -> torch.Tensor:
    """(n, D) -> float32 rows of unit length; a row of zeros stays zero."""
    return torch.nn.functional.normalize(rows.float(), dim=1)


def search(
    queries: np.ndarray | torch.Tensor,
    database: np.ndarray | torch.Tensor,
    k: int,
    *,
    normalise: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[..., Iterator[Any]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest inner products of every query with the rows of `database`.

    queries (Q, D), database (N, D) of any float type -> similarity (Q, k) float32 in descending order and index (Q, k)
    int64, both on the CPU; equal similarities are listed by index. (When several are equal at the k-th place, which of
    them is kept is the search library's choice.) With `normalise` both sides are scaled to unit length, which makes
    the product the cosine. `progress` wraps the loop over blocks.

    Raises ValueError when the widths differ or k is not in 1..N.
    """
    n = len(database)
    if queries.shape[1] != database.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} columns, the database {database.shape[1]}")
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not between 1 and the {n} rows of the database")
    prepare = normalise_rows if normalise else torch.Tensor.float
    left = prepare(_rows(queries, 0, len(queries)).to(device))
    starts: Any = range(0, n, BLOCK_ROWS)
    if progress is not None:
        starts = progress(starts, "Searching neighbours", len(starts))
    best: torch.Tensor | None = None
    for start in starts:
        block = prepare(_rows(database, start, min(start + BLOCK_ROWS, n)).to(left.device))
        block_search = _block_faiss if left.device.type == "cpu" else _block_torch
        keys = _encode(*block_search(left, block, min(k, len(block))), start)
        best = keys if best is None else _largest(torch.cat([best, keys], dim=1), k)
    assert best is not None  # n >= 1
    similarity, index = _decode(best.topk(k, dim=1).values)
    return similarity.cpu(), index.cpu()


def _rows(database: np.ndarray | torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """A copy of rows start..stop: a read-only memory map cannot be wrapped without one."""
    part = database[start:stop]
    return part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part))


def _block_faiss(queries: torch.Tensor, block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    import faiss  # here, because importing it takes as long as everything else on this page

    similarity, index = faiss.knn(queries.numpy(), block.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(similarity), torch.from_numpy(index)


def _block_torch(queries: torch.Tensor, block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    tiles = [(q @ block.T).topk(k, dim=1) for q in queries.split(max(1, TILE_SIMILARITIES // len(block)))]
    return torch.cat([t.values for t in tiles]), torch.cat([t.indices for t in tiles])


# A key is one int64 with the similarity above and the negated index below, so that keys are unique and their order is
# "larger similarity first, then lower index": merging cannot depend on how a sort treats ties.


def _largest(keys: torch.Tensor, k: int) -> torch.Tensor:
    return keys if keys.shape[1] <= k else keys.topk(k, dim=1, sorted=False).values


def _encode(similarity: torch.Tensor, index: torch.Tensor, offset: int) -> torch.Tensor:
    """float32 similarities and int64 indices into a block that starts at row `offset` -> int64 keys."""
    bits = (similarity.contiguous() + 0.0).view(torch.int32)  # -0.0 becomes 0.0, its equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the order of IEEE 754 floats as the order of integers
    return (ordered.long() << 32) + (0xFFFFFFFF - offset - index)


def _decode(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `_encode`: similarity float32 and index int64 of the same shape."""
    ordered = (keys >> 32).to(torch.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)
