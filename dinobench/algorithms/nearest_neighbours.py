"""Exact nearest neighbours by inner product, streamed over the database.

Memory does not grow with the database, which may be a memory-mapped file: it is read in blocks, every block is
multiplied with a tile of the queries at a time, the k best of a tile are picked out, and merged with the best so far.

Picking is what costs beside the product, so it looks at each similarity only once: the largest of every `GROUP`
neighbouring ones is taken, and as the k best lie in the k groups whose largest are best, only those groups are looked
into. All comparisons are of integers that hold a similarity and its index, no two of which are equal: what is found
depends on neither blocks, tiles and threads nor on how a library's selection treats ties.

What is exact: of the float32 products that the matrix multiplication gives, the k largest are found, without
exception. The products themselves are rounded (at width 384 by some 1e-7 of a cosine) in an order of additions that
is the multiplication's own: two rows whose similarities differ by less may come in either order on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from dinobench.errors import UserError

#: Numbers of the database held in float32 at a time: 128 MB, 87,381 rows of 384.
BLOCK_NUMBERS = 2**25
#: Similarities at a time: 128 MB on the CPU, 1 GB on an accelerator.
TILE_CPU, TILE_ACCELERATOR = 2**25, 2**28
#: Similarities whose largest stands for them; on the CPU two of its cache lines.
GROUP = 32
#: Numbers that a core of the CPU works on at a time, few enough to stay in its cache.
CHUNK_NUMBERS = 2**18
#: Rows of the database that are multiplied at a time where it is not kept.
PASSING = 8192


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
    int64, both on the CPU. Equal similarities are listed by index, and of those equal at the k-th place the lowest
    indices are kept. With `normalise` both sides are scaled to unit length, which makes the product the cosine.
    `progress` wraps the loop over blocks.

    Raises ValueError when the widths differ or k is not in 1..N, UserError for rows that are not finite.
    """
    n, width = database.shape
    if queries.shape[1] != width:
        raise ValueError(f"queries have {queries.shape[1]} columns, the database {width}")
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not between 1 and the {n} rows of the database")
    device = torch.device(device)
    cpu = device.type == "cpu"
    asked = len(queries)
    left = torch.zeros(_whole(asked), width, device=device)
    _prepare(queries, left[:asked], normalise)
    rows = min(_whole(max(1, BLOCK_NUMBERS // max(1, width))), _whole(n))
    tile = _whole(max(1, (TILE_CPU if cpu else TILE_ACCELERATOR) // rows))
    # Several tiles multiply the same block, which is kept. One does it in passing, as fresh memory costs time.
    step = rows if len(left) > tile or not cpu else min(PASSING, rows)
    block = _room(step * width, device).view(step, width)
    room = _room(min(tile, len(left)) * rows, device)
    best = torch.empty(asked, 0, dtype=torch.int64, device=device)
    starts: Any = range(0, n, rows)
    if progress is not None:
        starts = progress(starts, "Searching neighbours", len(starts))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in starts:
            size = min(rows, n - start)
            merged = torch.empty(asked, min(k, best.shape[1] + size), dtype=torch.int64, device=device)
            for at in range(0, asked, tile):
                part = left[at : at + tile]
                products = room[: len(part) * rows].view(len(part), rows)
                for first in range(0, size, step):
                    count = min(step, size - first)
                    some = block[: _whole(count)]
                    if at == 0:
                        _prepare(database[start + first : start + first + count], some[:count], normalise)
                        some[count:] = 0
                    torch.mm(part, some.T, out=products[:, first : first + len(some)])
                products[:, size:] = -torch.inf
                real = min(tile, asked - at)
                at_once = _at_once(min(rows, k * GROUP)) if cpu else real
                for first in range(0, real, at_once):
                    here = slice(at + first, at + min(first + at_once, real))
                    keys = _best_of(products[first : min(first + at_once, real)], size, k, start, pool)
                    merged[here] = _largest(torch.cat([best[here], keys], dim=1), k, pool)
            best = merged
    return _decode(best.sort(dim=1, descending=True).values.cpu())


def _room(numbers: int, device: torch.device) -> torch.Tensor:
    """(numbers,) float32 of any value: on the CPU NumPy's, which asks for huge pages; the small ones cost time."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty(numbers, np.float32))
    return torch.empty(numbers, device=device)


def _whole(rows: int) -> int:
    """`rows` rounded up to whole groups, of queries too.

    With so many on both sides a library multiplies by one kernel, which adds up alike in every place: with fewer (up to
    15 in MKL) by others, and the last bits of a query's similarities would depend on how many were asked with it.
    """
    return -(-rows // GROUP) * GROUP


def _at_once(width: int) -> int:
    """How many rows of `width` numbers the CPU's cores work on together."""
    return max(1, torch.get_num_threads() * CHUNK_NUMBERS // max(1, width))


def _prepare(rows: np.ndarray | torch.Tensor, out: torch.Tensor, normalise: bool) -> None:
    """Write `rows` (n, D) as float32 to `out` (n, D), on the CPU a few at a time: a memory map is read but once."""
    step = _at_once(out.shape[1]) if out.device.type == "cpu" else max(1, len(out))
    for start in range(0, len(out), step):
        part, into = rows[start : start + step], out[start : start + step]
        if not isinstance(part, torch.Tensor):
            part = torch.from_numpy(part if part.flags.writeable else np.array(part))  # torch takes no read-only one
        if part.dtype == torch.float64:  # which not every device has
            part = part.float()
        part = part.to(out.device)
        into.copy_(normalise_rows(part) if normalise else part)
        # A sum is not finite where a number is not, and takes a tenth of the time.
        if not into.sum().isfinite() and not into.isfinite().all():
            raise UserError(
                "features hold numbers that are not finite (NaN or infinity), which have no neighbours: the weights "
                "are damaged, or overflow in this precision"
            )


def _best_of(products: torch.Tensor, size: int, k: int, offset: int, pool: ThreadPoolExecutor) -> torch.Tensor:
    """Products (q, whole groups) with `size` rows that start at row `offset` -> keys (q, min(k, size)) in no order."""
    if products.shape[1] <= 2 * k * GROUP:  # looking into all groups costs no more
        return _largest(_encode(products[:, :size], _down(offset, size, products.device)), k, pool)
    groups = products.view(len(products), -1, GROUP)
    count = groups.shape[1]
    # Of equal groups the first holds the lower indices, so the k first in the order of keys hold the k best.
    heads = _encode(groups.amax(dim=2), _down(0, count, groups.device))
    _, chosen = _decode(_largest(heads, k, pool))
    flat = chosen + torch.arange(0, len(groups) * count, count, device=chosen.device)[:, None]
    inside = groups.view(-1, GROUP).index_select(0, flat.flatten())
    index = _down(offset, GROUP, chosen.device) - (chosen * GROUP).to(torch.int32).view(-1, 1)
    return _largest(_encode(inside, index).view(len(groups), -1), k, pool)


def _down(start: int, count: int, device: torch.device) -> torch.Tensor:
    """The lower halves (count,) int32 of the keys of indices `start`, `start` + 1, ...: they are unsigned, and fall."""
    return (~torch.arange(start, start + count, device=device)).to(torch.int32)


# A key is one int64 with the similarity above and the negated index below, so that keys are unique and their order is
# "larger similarity first, then lower index": selecting and merging cannot depend on how a library treats ties.


def _largest(keys: torch.Tensor, k: int, pool: ThreadPoolExecutor) -> torch.Tensor:
    """The k largest of every row of `keys` (n, m), in no order; on the CPU `keys` is shuffled."""
    if keys.shape[1] <= k:
        return keys
    if keys.device.type != "cpu":
        return keys.topk(k, dim=1, sorted=False).values
    cut, rows = keys.shape[1] - k, keys.numpy()  # NumPy's selection is vectorised: 10 x faster than torch's topk
    shares = np.array_split(rows, min(len(rows), torch.get_num_threads()) or 1)
    list(pool.map(lambda share: share.partition(cut, axis=1), shares))
    return keys[:, cut:]


def _encode(similarity: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """float32 similarities (n, m) and `_down` of their indices, (n, m) or (m,) -> int64 keys (n, m)."""
    bits = (similarity + 0.0).view(torch.int32)  # -0.0 becomes 0.0, its equal
    halves = torch.empty(*bits.shape, 2, dtype=torch.int32, device=bits.device)  # the lower half comes first
    halves[..., 0] = down
    halves[..., 1] = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)  # floats' order as that of integers
    return halves.view(torch.int64)[..., 0]


def _decode(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `_encode`: similarity float32 and index int64 of the same shape."""
    ordered = (keys >> 32).to(torch.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)
