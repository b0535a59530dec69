"""Exact nearest neighbours by inner product, streamed over the database.

Memory does not grow with the database, which may be a memory-mapped file: it is read in blocks, every block is
multiplied with a tile of the queries at a time, the k best of a tile are picked out, and merged with the best so far.

Picking is what costs beside the product, so it looks at each similarity only once: the largest of every `GROUP`
neighbouring ones is taken, and as the k best are in the k groups whose largest are best, only those groups are looked
into. On a CPU all that reach the k-th of those largest are candidates, hardly more than k; an accelerator, which would
have to wait for their number, takes the k groups whole. The last comparisons are of integers that hold a similarity
and its index, no two of which are equal: what is found depends on neither blocks, tiles and threads nor on how a
library's selection treats ties.

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
#: Below this a norm counts as this, as in `torch.nn.functional.normalize`: a row of zeros stays zero.
LEAST_NORM = 1e-12
#: Rows of the database that are multiplied at a time where it is not kept.
PASSING = 8192


def normalise_rows(rows: torch.Tensor) -> torch.Tensor:
    """(n, D) -> float32 rows of unit length; a row of zeros stays zero."""
    return torch.nn.functional.normalize(rows.float(), dim=1, eps=LEAST_NORM)


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

    Raises ValueError when the widths differ or k is not in 1..N, UserError for rows that are not finite
    and for products that are too large for float32.
    """
    n, width = database.shape
    if queries.shape[1] != width:
        raise ValueError(f"queries have {queries.shape[1]} columns, the database {width}")
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not between 1 and the {n} rows of the database")
    device = torch.device(device)
    asked = len(queries)
    left = torch.zeros(_whole(asked), width, device=device)
    _prepare(queries, left[:asked], normalise)
    rows = min(_whole(max(1, BLOCK_NUMBERS // max(1, width))), _whole(n))
    tile = _whole(max(1, (TILE_CPU if _on_cpu(left) else TILE_ACCELERATOR) // rows))
    # Several tiles multiply the same block, which is kept. One does it in passing, as fresh memory costs time.
    step = rows if len(left) > tile or not _on_cpu(left) else min(PASSING, rows)
    block = torch.empty(step, width, device=device)
    # One for all tiles: asking for fresh memory takes a fifth of the product's time. Not in huge pages, as NumPy's
    # would be: a multiplication into them took a third longer where it was measured.
    room = torch.empty(min(tile, len(left)) * rows, device=device)
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
                here = slice(at, min(at + tile, asked))
                keys = _best_of(products[: here.stop - at], size, k, start, pool)
                merged[here] = _largest(torch.cat([best[here], keys], dim=1), k, pool)
            best = merged
        return _decode(_descending(best, pool).cpu())


def _on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


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
    step = _at_once(out.shape[1]) if _on_cpu(out) else max(1, len(out))
    for start in range(0, len(out), step):
        part, into = rows[start : start + step], out[start : start + step]
        if not isinstance(part, torch.Tensor):
            part = torch.from_numpy(part if part.flags.writeable else np.array(part))  # torch takes no read-only one
        if part.dtype == torch.float64:  # which not every device has
            part = part.float()
        part = part.to(out.device)
        # Norms and sums are not finite where a number is not; looking at each number would take ten times as long.
        if normalise:
            part = part.float()
            norms = torch.linalg.vector_norm(part, dim=1, keepdim=True)
            torch.div(part, norms.clamp_min(LEAST_NORM), out=into)
            clean = norms.isfinite().all()
        else:
            clean = into.copy_(part).sum().isfinite()
        if not clean and not into.isfinite().all():
            raise UserError(
                "features hold numbers that are not finite (NaN or infinity), which have no neighbours: the weights "
                "are damaged, or overflow in this precision"
            )


def _best_of(products: torch.Tensor, size: int, k: int, offset: int, pool: ThreadPoolExecutor) -> torch.Tensor:
    """Products (q, whole groups) with `size` rows that start at row `offset` -> keys (q, min(k, size)) in no order."""
    real = products[:, : _whole(size)]
    groups = real.unflatten(1, (-1, GROUP)) if size > 2 * k * GROUP else None  # else looking at all costs no more
    if not _on_cpu(products):
        return _best_by_topk(real[:, :size], groups, k, offset)
    heads = real[:, :size].numpy() if groups is None else groups.amax(dim=2).numpy()
    flat = None if groups is None else products.numpy().reshape(len(products), -1, GROUP)
    step = max(1, CHUNK_NUMBERS // (heads.shape[1] if flat is None else k * GROUP))
    parts = [slice(first, first + step) for first in range(0, len(heads), step)]
    found = pool.map(
        lambda rows: _best_by_threshold(heads[rows], flat if flat is None else flat[rows], min(k, size), offset), parts
    )
    return torch.cat([torch.empty(0, min(k, size), dtype=torch.int64), *found])


def _best_by_topk(products: torch.Tensor, groups: torch.Tensor | None, k: int, offset: int) -> torch.Tensor:
    """Products (q, n), the same in `groups` (q, n / GROUP, GROUP) or None -> keys (q, min(k, n)); nobody waits."""
    if groups is None:
        return _topk(_encode(products, _down(offset, products.shape[1], products.device)), k)
    count = groups.shape[1]
    # Of equal groups the first holds the lower indices, so the k first in the order of keys hold the k best.
    _, chosen = _decode(_topk(_encode(groups.amax(dim=2), _down(0, count, groups.device)), k))
    inside = groups.gather(1, chosen[..., None].expand(-1, -1, GROUP))
    index = _down(offset, GROUP, chosen.device) - (chosen * GROUP).to(torch.int32)[..., None]
    return _topk(_encode(inside.flatten(0, 1), index.flatten(0, 1)).view(len(groups), -1), k)


def _best_by_threshold(heads: np.ndarray, groups: np.ndarray | None, k: int, offset: int) -> torch.Tensor:
    """The largest of every group (q, m) and `groups` (q, at least m, GROUP), or None for groups of one -> keys (q, k).

    k groups reach the k-th of their largest, so at least k of all the numbers do, and the k best are among these.
    """
    count, columns = heads.shape
    least = np.partition(heads, columns - k, axis=1)[:, columns - k]
    least = np.maximum(least, np.finfo(np.float32).min)  # so that what fills the last group is no candidate
    found = np.flatnonzero(heads >= least[:, None])
    row, column = np.divmod(found, columns)
    if groups is None:
        value = heads.ravel()[found] if heads.flags.c_contiguous else heads[row, column]
    else:
        inside = np.take(groups.reshape(-1, GROUP), row * groups.shape[1] + column, axis=0)
        found = np.flatnonzero(inside >= least[row][:, None])
        value = inside.ravel()[found]
        group, place = np.divmod(found, GROUP)
        row, column = row[group], column[group] * GROUP + place
    each = np.bincount(row, minlength=count)
    if count and each.min() < k:
        raise UserError("similarities are not finite: the features are too large to be multiplied")
    keys = _encode(torch.from_numpy(value), torch.from_numpy(~(column + offset)).to(torch.int32)).numpy()
    table = np.full((count, each.max(initial=k)), np.iinfo(np.int64).min)
    table[row, np.arange(len(row)) - (each.cumsum() - each)[row]] = keys
    cut = table.shape[1] - k
    if cut:
        table.partition(cut, axis=1)
    return torch.from_numpy(table[:, cut:])


def _down(start: int, count: int, device: torch.device) -> torch.Tensor:
    """The lower halves (count,) int32 of the keys of indices `start`, `start` + 1, ...: they are unsigned, and fall."""
    return (~torch.arange(start, start + count, device=device)).to(torch.int32)


# A key is one int64 with the similarity above and the negated index below, so that keys are unique and their order is
# "larger similarity first, then lower index": selecting and merging cannot depend on how a library treats ties.


def _topk(keys: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of every row of `keys` (n, m), in no order."""
    return keys.topk(k, dim=1, sorted=False).values if keys.shape[1] > k else keys


def _largest(keys: torch.Tensor, k: int, pool: ThreadPoolExecutor) -> torch.Tensor:
    """As `_topk`; on the CPU `keys` is shuffled."""
    if not _on_cpu(keys):
        return _topk(keys, k)
    cut = keys.shape[1] - k
    if cut > 0:  # NumPy's selection is vectorised: 10 x faster than torch's topk
        _in_shares(keys, lambda rows: rows.partition(cut, axis=1), pool)
    return keys[:, max(cut, 0) :]


def _descending(keys: torch.Tensor, pool: ThreadPoolExecutor) -> torch.Tensor:
    """`keys` (n, m) with every row in descending order; on the CPU in its place."""
    if not _on_cpu(keys):
        return keys.sort(dim=1, descending=True).values
    _in_shares(keys, lambda rows: rows.sort(axis=1), pool)
    return keys.flip(1)


def _in_shares(keys: torch.Tensor, work: Callable[[np.ndarray], None], pool: ThreadPoolExecutor) -> None:
    """`work` done by all threads, each on its share of the rows."""
    list(pool.map(work, np.array_split(keys.numpy(), min(len(keys), torch.get_num_threads()) or 1)))


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
