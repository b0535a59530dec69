"""Identity of data by content: SHA-256 of files, remembered as long as the files' stat data stay the same.

A name or a modification time would serve yesterday's numbers for today's images. Hashing ImageNet takes minutes, so
digests are kept per data set under the cache folder, keyed by size, mtime, ctime and inode of every file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from dinobench.files import atomic_path, cache_root, open_regular

Progress = Callable[..., Any]
#: Where an image lies in a larger file: that file, the offset and the number of its bytes.
Place = tuple[str, int, int]


# Two writes within one tick of the file system's clock leave the same stat data (git calls such files racily clean),
# so a file that changed this recently, in nanoseconds, is hashed again next time.
SETTLED_NS = 2_000_000_000
CHUNK = 64  # files per task: one future per file would take gigabytes for ImageNet
THREADS = min(8, 2 * (os.cpu_count() or 1))
_NO_STAT = (-1, -1, -1, -1)


def hash_files(
    root: Path,
    names: Sequence[str],
    remember: Path,
    progress: Progress | None = None,
    places: Mapping[str, Place] | None = None,
) -> np.ndarray:
    """(n, 32) uint8: the SHA-256 of each file `root/name`, all zeros for a file that cannot be read.

    Names that lie inside larger files have their `places`: the file below `root`, and the offset and number of bytes.
    An unreadable file is no error here: it stays in the data set, and whoever loads it finds and counts it.
    `remember` is the data set's own path, which the stored digests are filed under; what is hashed when the run is
    interrupted is kept.
    """
    folder = os.fspath(root)
    inside = places or {}
    paths = [_below(folder, inside[name]) if name in inside else os.path.join(folder, name) for name in names]
    with _pool() as pool:
        stats = np.empty((len(paths), 4), np.int64)
        for i, stat in enumerate(_mapped(pool, _stat, paths, progress, "checking files")):
            stats[i] = stat
        digests, known = _recall(remember, names, stats)
        todo = np.flatnonzero(~known & (stats[:, 0] >= 0))
        if not len(todo):
            return digests
        hashed = _mapped(pool, _hash, [paths[i] for i in todo.tolist()], progress, "hashing files")
        try:
            for i, (stat, digest, settled) in zip(todo.tolist(), hashed, strict=True):
                stats[i], digests[i], known[i] = stat, np.frombuffer(digest, np.uint8), settled
        finally:
            keep = np.flatnonzero(known)
            _store(remember, [names[i] for i in keep.tolist()], stats[keep], digests[keep])
    return digests


def of_files(names: Sequence[str], digests: np.ndarray) -> str:
    """The fingerprint of a split: SHA-256 over its names and its files' digests (n, 32), in order."""
    total = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        total.update(name.encode() + b"\0" + digest.tobytes())
    return total.hexdigest()


def of_array(names: Sequence[str], array: np.ndarray) -> str:
    """The fingerprint of a split that is held in memory."""
    total = hashlib.sha256(f"{array.dtype.str} {array.shape} {' '.join(names)}".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def of_dataset(classes: Sequence[str], splits: Sequence[tuple[str, np.ndarray]]) -> str:
    """The fingerprint of a data set: its classes and each split's (fingerprint, labels (n,) int64)."""
    total = hashlib.sha256("\0".join(classes).encode())
    for fingerprint, labels in splits:
        total.update(b"\0" + fingerprint.encode() + np.ascontiguousarray(labels, "<i8").tobytes())
    return total.hexdigest()


def _signature(stat: os.stat_result) -> tuple[int, int, int, int]:
    """Size, times and inode; the inode cut to 63 bits because some file systems use more."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino & (2**63 - 1)


def _below(folder: str, place: Place) -> Place:
    return os.path.join(folder, place[0]), *place[1:]


def _stat(path: str | Place) -> tuple[int, int, int, int]:
    try:
        found = os.stat(path if isinstance(path, str) else path[0])
    except OSError:
        return _NO_STAT
    return _signature(found) if S_ISREG(found.st_mode) else _NO_STAT  # reading a pipe or a device may never end


def _hash(path: str | Place) -> tuple[tuple[int, int, int, int], bytes, bool]:
    """(stat data from before reading, digest, whether the file had been at rest long enough to trust them)."""
    file_path, offset, left = (path, 0, -1) if isinstance(path, str) else path
    try:
        with open_regular(file_path, buffering=0) as file:
            signature = _signature(os.fstat(file.fileno()))
            settled = time.time_ns() - max(signature[1:3]) > SETTLED_NS
            total = hashlib.sha256()
            file.seek(offset)
            while block := file.read(1 << 20 if left < 0 else min(left, 1 << 20)):
                total.update(block)
                left -= len(block) if left >= 0 else 0
    except OSError:
        return _NO_STAT, bytes(32), False
    return signature, total.digest(), settled


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads, because file systems over a network answer many requests at once; an interrupt drops what waits."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _mapped(
    pool: ThreadPoolExecutor,
    work: Callable[[Any], Any],
    paths: Sequence[str | Place],
    progress: Progress | None,
    description: str,
) -> Iterable[Any]:
    """The results of `work` on each path or place, in order."""
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    done = pool.map(lambda chunk: [work(path) for path in chunk], chunks)
    results = (result for chunk in done for result in chunk)
    return progress(results, description, len(paths)) if progress else results


def _cache_file(remember: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(remember))).hexdigest()[:32]
    return cache_root() / "hashes" / f"{key}-v1.npz"


def _recall(remember: Path, names: Sequence[str], stats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(digests (n, 32), known (n,)): the digests stored for files whose stat data are still the same."""
    digests, known = np.zeros((len(names), 32), np.uint8), np.zeros(len(names), bool)
    try:
        with np.load(_cache_file(remember), allow_pickle=False) as stored:
            old_names = stored["names"].tobytes().decode().split("\0")
            old_stats, old_digests = stored["stats"], stored["digests"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return digests, known  # absent or damaged: it is only a cache
    if old_stats.shape != (len(old_names), 4) or old_digests.shape != (len(old_names), 32):
        return digests, known
    rows = {name: row for row, name in enumerate(old_names)}
    row = np.fromiter((rows.get(name, -1) for name in names), np.int64, len(names))
    known = (row >= 0) & (stats[:, 0] >= 0) & (old_stats[row] == stats).all(axis=1)
    digests[known] = old_digests[row[known]]
    return digests, known


def _store(remember: Path, names: list[str], stats: np.ndarray, digests: np.ndarray) -> None:
    """Write atomically; processes that race write whole files each, and a read-only cache folder only costs time."""
    if not names:
        return
    with contextlib.suppress(OSError), atomic_path(_cache_file(remember)) as temporary, temporary.open("wb") as file:
        np.savez(file, names=np.frombuffer("\0".join(names).encode(), np.uint8), stats=stats, digests=digests)
