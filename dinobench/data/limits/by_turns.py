"""Which N of many items stay: the same on every machine, for ever, whatever order they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def by_turns(ids: Sequence[str], n: int, groups: np.ndarray | None = None, together: int = 1) -> np.ndarray:
    """Indices, ascending, of the first `n` items in the order of the digests of their names, or of all of fewer.

    With `groups` (len(ids),) each group gives one item after the other in that order, by turns: with n of at least
    their number every group has one. `together`: so many items of a group, where it has them, go in one turn. The
    groups' own order is that of their names' digests too.

    >>> by_turns(["a", "b", "c", "d"], 2, np.array([0, 0, 0, 1])).tolist()
    [2, 3]
    """
    digests = _digests(ids)
    if groups is None:
        return np.sort(np.argsort(digests, kind="stable")[:n])
    names, of_item = np.unique(groups, return_inverse=True)
    group = np.argsort(np.argsort(_digests([str(name) for name in names]), kind="stable"))[of_item]
    by_group = np.lexsort((digests, group))
    begins = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(names)))])
    rank = np.empty(len(ids), np.int64)
    rank[by_group] = np.arange(len(ids)) - begins[group[by_group]]
    turn = np.maximum(rank, together - 1)
    return np.sort(np.lexsort((digests, group, turn))[:n])


def _digests(names: Sequence[str]) -> np.ndarray:
    """(n,) uint64: the first eight bytes of the names' BLAKE2b digests."""
    found = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(found), ">u8").astype(np.uint64)
