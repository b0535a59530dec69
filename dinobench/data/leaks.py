"""Images that are both learnt from and scored on, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def digests(images: Iterable[np.ndarray]) -> np.ndarray:
    """(n, 32) uint8: the SHA-256 of each image's bytes, as `fingerprint.hash_files` has it of files."""
    rows = (hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)


def leaked(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(k,) indices of the test images whose bytes are in train, from their digests (n, 32) and (m, 32) uint8.

    All-zero digests are files that could not be read and match nothing.

    >>> leaked(np.eye(3, 32, dtype=np.uint8), np.eye(2, 32, k=2, dtype=np.uint8))
    array([0])
    """
    # Test is the smaller part: its first eight bytes, sorted, settle nearly all of train; the rest is compared in full.
    heads = np.sort(np.ascontiguousarray(test[:, :8]).view(np.uint64)[:, 0])
    wanted = np.ascontiguousarray(train[:, :8]).view(np.uint64)[:, 0]
    place = np.minimum(np.searchsorted(heads, wanted), max(len(heads) - 1, 0))
    known = {row.tobytes() for row in train[heads[place] == wanted]} if len(heads) else set()
    known.discard(bytes(test.shape[1]))
    return np.array([i for i, row in enumerate(test) if row.tobytes() in known] if known else [], np.int64)


def note(ids: Sequence[str], leaks: np.ndarray) -> str | None:
    """The note for a record about `leaks` (k,), indices into the test images' `ids`; None when there are none."""
    if not len(leaks):
        return None
    count = f"{len(leaks):,} of {len(ids):,} test images"
    return f"leaked images: {count} are in train too, byte for byte, such as {ids[leaks[0]]}"
