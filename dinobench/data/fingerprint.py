"""Identity of data by content: SHA-256 of files, remembered as long as the files' stat data stay the same.

A name or a modification time would serve yesterday's numbers for today's images. Hashing ImageNet takes minutes, so
digests are kept per data set under the cache folder, keyed by size, mtime, ctime and inode of every file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from dinobench.data.decoding import in_order
from dinobench.files import Signature, atomic_path, cache_root, open_regular, settled, signature

Progress = Callable[..., Any]
#: Where an image lies in a larger file: that file, the offset and the number of its bytes.
Place = tuple[str, int, int]


CHUNK = 64  # files per task: a future and a line of progress for each would take longer than the file
KEEP_SECONDS = 10.0  # of hashing that a killed run may lose
THREADS = min(8, 2 * (os.cpu_count() or 1))
_NO_STAT = (-1, -1, -1, -1)


def hash_files(
    root: Path,
    names: Sequence[str],
    remember: Path,
    progress: Progress | None = None,
    places: Mapping[str, Place] | None = None,
    read: Callable[[str], bytes] | None = None,
) -> np.ndarray:
    """(n, 32) uint8: the SHA-256 of each file `root/name`, all zeros for a file that cannot be read.

    Names that lie inside larger files have their `places`: the file below `root`, and the offset and number of bytes.
    Where they cannot be read from there, `read(name)` gives the bytes, or raises OSError.
    An unreadable file is no error here: it stays in the data set, and whoever loads it finds and counts it.
    `remember` is the data set's own path, which the stored digests are filed under; what is hashed when the run is
    interrupted is kept, and all but the last `KEEP_SECONDS` of it when the run is killed.
    """
    folder, inside = os.fspath(root), places or {}

    def place(row: int) -> str | Place:
        name = names[row]
        return _below(folder, inside[name]) if name in inside else os.path.join(folder, name)

    stats = np.empty((len(names), 4), np.int64)
    with closing(_mapped(_stat, place, range(len(names)))) as looked:
        for batch in progress(looked, "checking files", len(names)) if progress else looked:
            stats[batch.rows] = batch.results
    memory = _Memory(remember, names, stats)
    sizes = stats[:, 0]
    if inside:
        own = zip(names, sizes.tolist(), strict=True)
        sizes = np.fromiter((inside[n][2] if n in inside else size for n, size in own), np.int64, len(names))
    todo = np.flatnonzero(~memory.known & (stats[:, 0] >= 0))
    if len(todo):
        hashed = _mapped(_hash, place, todo.tolist(), sizes)
        if read is not None:
            hashed = _mapped(lambda row: _hash_read(place(row), read, names[row]), int, todo.tolist(), sizes)
        with closing(hashed):
            memory.fill(progress(hashed, "hashing files", len(todo)) if progress else hashed)
    return memory.digests


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


def _below(folder: str, place: Place) -> Place:
    return os.path.join(folder, place[0]), *place[1:]


def _stat(path: str | Place) -> Signature:
    try:
        found = os.stat(path if isinstance(path, str) else path[0])
    except OSError:
        return _NO_STAT
    return signature(found) if S_ISREG(found.st_mode) else _NO_STAT  # reading a pipe or a device may never end


def _hash(path: str | Place) -> tuple[Signature, bytes, bool]:
    """(stat data from before reading, digest, whether the file had been at rest long enough to trust them)."""
    file_path, offset, left = (path, 0, -1) if isinstance(path, str) else path
    try:
        with open_regular(file_path, buffering=0) as file:
            stat = signature(os.fstat(file.fileno()))
            at_rest = settled(stat)
            total = hashlib.sha256()
            file.seek(offset)
            while block := file.read(1 << 20 if left < 0 else min(left, 1 << 20)):
                total.update(block)
                left -= len(block) if left >= 0 else 0
    except OSError:
        return _NO_STAT, bytes(32), False
    return stat, total.digest(), at_rest


def _hash_read(path: str | Place, read: Callable[[str], bytes], name: str) -> tuple[Signature, bytes, bool]:
    """As `_hash`, of what `read` gives."""
    stat = _stat(path)
    try:
        content = read(name)
    except OSError:
        return _NO_STAT, bytes(32), False
    return stat, hashlib.sha256(content).digest(), settled(stat)


@dataclass(frozen=True)
class _Batch:
    """Rows with what was found of each; to a progress display `n` files, and what it `says` of their bytes."""

    rows: list[int]
    results: list[Any]
    says: str = ""

    @property
    def n(self) -> int:
        return len(self.rows)


def _mapped(
    work: Callable[[Any], Any],
    place: Callable[[int], Any],
    rows: Sequence[int],
    sizes: np.ndarray | None = None,
) -> Generator[_Batch, None, None]:
    """`work` on the place of each row, in order, by threads: file systems over a network answer many requests at once.

    An interrupt drops what waits. `sizes` are the bytes of all rows.
    """
    total, done = 0 if sizes is None else int(sizes[rows].sum()), 0
    batches = (rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK))
    results = in_order(
        lambda batch: (batch, [work(place(row)) for row in batch]), batches,
        threads=THREADS, ahead=4 * THREADS, overlap=True,
    )  # fmt: skip
    with closing(results):
        for batch, found in results:
            done += 0 if sizes is None else int(sizes[batch].sum())
            yield _Batch(list(batch), found, f"{_bytes(done)} of {_bytes(total)}" if total else "")


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


class _Memory:
    """The digests (n, 32) of named files and which of them are `known`, as remembered of the data set and from now on.

    What is remembered lies in one file, and while files are hashed in parts beside it, each of them some seconds' work:
    a killed run leaves these.
    """

    def __init__(self, remember: Path, names: Sequence[str], stats: np.ndarray) -> None:
        self.names, self.stats = names, stats
        self.digests, self.known = np.zeros((len(names), 32), np.uint8), np.zeros(len(names), bool)
        key = hashlib.sha256(os.fsencode(os.path.realpath(remember))).hexdigest()[:32]
        self._file = cache_root() / "hashes" / f"{key}-v1.npz"
        self._parts: list[Path] = []
        with contextlib.suppress(OSError):
            self._parts = sorted(self._file.parent.glob(f"{key}-v1-*.npz"))
        for file in (self._file, *self._parts):
            self._recall(file)

    def fill(self, hashed: Iterable[_Batch]) -> None:
        """Take in what `_hash` found, and keep it however the loop ends."""
        kept, fresh = time.monotonic(), []
        try:
            for batch in hashed:
                for row, (stat, digest, settled) in zip(batch.rows, batch.results, strict=True):
                    self.stats[row], self.digests[row] = stat, np.frombuffer(digest, np.uint8)
                    self.known[row] = settled
                fresh += batch.rows
                if time.monotonic() - kept > KEEP_SECONDS:
                    part = self._file.with_name(f"{self._file.stem}-{uuid.uuid4().hex}.npz")
                    self._parts += [part] * self._store(part, np.array(fresh)[self.known[fresh]])
                    kept, fresh = time.monotonic(), []
        finally:
            if self._store(self._file, np.flatnonzero(self.known)):
                for part in self._parts:
                    with contextlib.suppress(OSError):
                        part.unlink()

    def _recall(self, file: Path) -> None:
        """Take the digests stored for files whose stat data are still the same."""
        try:
            with np.load(file, allow_pickle=False) as stored:
                old_names = stored["names"].tobytes().decode().split("\0")
                old_stats, old_digests = stored["stats"], stored["digests"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
            return  # absent or damaged: it is only a cache
        if old_stats.shape != (len(old_names), 4) or old_digests.shape != (len(old_names), 32):
            return
        if old_names == list(self.names):
            row = np.arange(len(old_names))
        else:
            rows = {name: row for row, name in enumerate(old_names)}
            row = np.fromiter((rows.get(name, -1) for name in self.names), np.int64, len(self.names))
        same = (row >= 0) & (self.stats[:, 0] >= 0) & (old_stats[row] == self.stats).all(axis=1)
        self.digests[same] = old_digests[row[same]]
        self.known |= same

    def _store(self, file: Path, rows: np.ndarray) -> bool:
        """Write atomically; whether it was. Processes that race write whole files each, and a read-only cache folder
        only costs time."""
        if not len(rows):
            return False
        names = np.frombuffer("\0".join(self.names[row] for row in rows.tolist()).encode(), np.uint8)
        with contextlib.suppress(OSError), atomic_path(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, names=names, stats=self.stats[rows], digests=self.digests[rows])
        return file.exists()
