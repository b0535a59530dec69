"""The content-addressed cache of features: memory-mapped arrays that fill up row by row.

An entry is a folder named by the digest of everything that decides its numbers. While it fills, `state.npy` says for
every row whether it is there; rows reach the disk before their state does, so an interrupted extraction goes on where
it stopped. Only `complete.json`, written last with the checksums of the arrays, makes an entry worth reading.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

from dinobench import console
from dinobench.errors import UserError
from dinobench.files import atomic_path
from dinobench.hashing import digest, sha256_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: States of a row.
TODO, DONE, BROKEN, OUT_OF_RANGE = 0, 1, 2, 3
#: Rows copied at a time from one entry to another: some hundred MB at most.
TAKEN = 4096


@dataclass(frozen=True)
class Entry:
    """One set of arrays in the cache: `identity` is what its name is the digest of, `label` is for people to read."""

    root: Path
    identity: Mapping[str, Any]
    label: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def key(self) -> str:
        return digest(self.identity)

    @property
    def folder(self) -> Path:
        return self.root / self.key[:2] / self.key

    def complete(self) -> bool:
        """Whether every row is there and the arrays are, byte for byte, those that were finished."""
        try:
            sums = json.loads((self.folder / "complete.json").read_text())["sha256"]
            return set(sums) == {*self.shapes, "state"} and all(
                sha256_file(self._file(n)) == s for n, s in sums.items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def create(self) -> None:
        """Make the files, unless an earlier call began them and they fit.

        Arrays that differ from what was once finished were damaged since: they start anew, because their rows' states
        no longer say which of them are right.
        """
        finished = self.folder / "complete.json"
        try:
            if not self._begun() or (finished.exists() and not self.complete()):
                _discard(self.folder)
                self.folder.mkdir(parents=True)
                about = {"label": self.label, "identity": self.identity}
                (self.folder / "entry.json").write_text(json.dumps(about, indent=1))
                for name, shape in self.shapes.items():
                    _allocate(self._file(name), np.float32, shape)
                _allocate(self._file("state"), np.uint8, self._rows())
            finished.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write the feature cache: {error.strerror or error}; "
                "free some space, set DINOBENCH_CACHE to another folder, or use --no-cache"
            ) from error

    def _begun(self) -> bool:
        try:
            shapes = {**self.shapes, "state": self._rows()}
            return all(np.load(self._file(n), mmap_mode="r").shape == s for n, s in shapes.items())
        except (OSError, ValueError, EOFError):
            return False

    def state(self) -> np.ndarray:
        """(rows,) uint8: TODO, DONE, BROKEN (image unreadable) or OUT_OF_RANGE (features beyond float32)."""
        return np.array(np.load(self._file("state")))

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """Open for writing rows; what was written is on disk when the block ends, however it ends."""
        writer = Writer(
            {n: np.lib.format.open_memmap(self._file(n), mode="r+") for n in self.shapes},
            np.lib.format.open_memmap(self._file("state"), mode="r+"),
        )
        try:
            yield writer
        finally:
            writer.flush()

    def take(self, wider: Entry) -> None:
        """Fill rows that are still to do with the last blocks of an entry that holds these features among others.

        It may be one that another process fills, prunes or has damaged: then less is taken, or nothing.
        """
        if not (wider.folder / "state.npy").exists():
            return
        with contextlib.suppress(OSError, ValueError, EOFError):
            if (wider.folder / "complete.json").exists() and not wider.complete():
                return
            there = np.flatnonzero((wider.state() == DONE) & (self.state() != DONE))
            arrays = {name: wider.read(name) for name in self.shapes}
            if not len(there) or any(array.shape != wider.shapes[name] for name, array in arrays.items()):
                return
            with self.writer() as writer:
                for start in range(0, len(there), TAKEN):
                    rows = there[start : start + TAKEN]
                    for name, (_, blocks, _) in self.shapes.items():
                        writer.arrays[name][rows] = arrays[name][rows, -blocks:]
                    writer.mark(rows, np.full(len(rows), DONE, np.uint8))

    def finish(self) -> None:
        """Declare the entry complete. The caller knows that no row is left to do."""
        sums = {name: sha256_file(self._file(name)) for name in (*self.shapes, "state")}
        with atomic_path(self.folder / "complete.json") as temporary:
            temporary.write_text(json.dumps({"sha256": sums}))

    def read(self, name: str) -> np.ndarray:
        """One of the arrays, memory-mapped read-only."""
        return np.load(self._file(name), mmap_mode="r")

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _rows(self) -> tuple[int]:
        return (next(iter(self.shapes.values()))[0],)


def finish(entries: Sequence[Entry]) -> None:
    """Declare all of them complete."""
    for entry in entries:
        entry.finish()


class Writer:
    """Rows go to the arrays at once and count as done at the next flush, after the arrays are on disk."""

    def __init__(self, arrays: dict[str, np.ndarray], state: np.ndarray) -> None:
        self.arrays, self._state = arrays, state
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    def mark(self, rows: np.ndarray, states: np.ndarray) -> None:
        self._pending.append((rows, states))

    def flush(self) -> None:
        if not self._pending:
            return
        for array in self.arrays.values():
            array.flush()  # type: ignore[attr-defined]
        for rows, states in self._pending:
            self._state[rows] = states
        self._state.flush()  # type: ignore[attr-defined]
        self._pending.clear()


@contextlib.contextmanager
def locked(entries: Sequence[Entry]) -> Iterator[None]:
    """Hold the entries against other processes; the system lets go of a lock when its holder dies, however it dies.

    Locks are taken in the order of their keys, so that two processes that want the same entries cannot block each
    other for ever.
    """
    with contextlib.ExitStack() as stack:
        for entry in sorted(entries, key=lambda e: e.key):
            path = entry.folder.with_suffix(".lock")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(path)
                try:
                    lock.acquire(timeout=0.5)
                except Timeout:
                    console.note("waiting for another process that is extracting the same features ...")
                    lock.acquire()
            except OSError as error:
                raise UserError(
                    f"{path.parent}: cannot write the feature cache: {error.strerror or error}; "
                    "set DINOBENCH_CACHE to another folder, or use --no-cache"
                ) from error
            stack.callback(lock.release)
        yield


def hold(entry: Entry) -> IO[bytes] | None:
    """Keep an entry from being pruned while the returned file is open: a shared lock, which many may hold at once.

    None where the system has no such locks; Windows does not delete what is open anyway.
    """
    if fcntl is None:
        return None
    path = entry.folder.with_suffix(".used")
    with contextlib.suppress(OSError):  # a cache that cannot be written is told of where it is written
        while True:
            file = open(path, "ab")  # noqa: SIM115
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file.fileno()).st_nlink:  # else it was pruned while we waited, and holds nothing
                return file
            file.close()
    return None


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether nobody holds the entry of this `.used` file; while the block runs nobody can."""
    if fcntl is None:
        yield True
        return
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Listed:
    """An entry as `dinobench cache ls` shows it."""

    folder: Path
    label: Mapping[str, str]
    complete: bool
    bytes: int
    used_at: float  # seconds since the epoch


def listing(root: Path) -> list[Listed]:
    """All entries under `root`, the most recently used first; folders that are not entries are left out."""
    listed = []
    for folder in root.glob("??/*/"):
        if folder.suffix:
            continue  # on its way out
        try:
            label = json.loads((folder / "entry.json").read_text())["label"]
            files = [f.stat() for f in folder.iterdir()]
        except (OSError, ValueError, KeyError):
            continue
        used = max(max(s.st_atime, s.st_mtime) for s in files)
        listed.append(Listed(folder, label, (folder / "complete.json").exists(), sum(s.st_size for s in files), used))
    return sorted(listed, key=lambda e: -e.used_at)


def prune(root: Path, older_than: float | None = None) -> tuple[int, int]:
    """Delete entries last used before `older_than` (seconds since the epoch; all when None): (entries, bytes) freed.

    An entry that a process is filling, or has still to read, is left alone.
    """
    entries = freed = 0
    for entry in listing(root):
        if older_than is not None and entry.used_at >= older_than:
            continue
        if _delete(entry.folder):
            entries, freed = entries + 1, freed + entry.bytes
    for lock in root.glob("??/*.lock"):  # what processes left that were killed while they deleted
        if not lock.with_suffix("").exists():
            _delete(lock.with_suffix(""))
    return entries, freed


def _delete(folder: Path) -> bool:
    """Delete an entry with its locks; whether it was there and nobody used it."""
    lock = folder.with_suffix(".lock")
    try:
        with FileLock(lock, timeout=0), _unused(folder.with_suffix(".used")) as unused:
            if not unused:
                return False
            there = _discard(folder)
            with contextlib.suppress(OSError):  # Windows does not delete what is open
                lock.unlink()  # while it is held, or two processes could hold locks of one name
    except Timeout:
        return False
    return there


def _discard(folder: Path) -> bool:
    """Delete an entry in one step, that of the renaming; whether it was there.

    Were a process killed between the files, rows that were damaged could outlive the sums that tell.
    """
    gone = folder.with_suffix(".gone")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.replace(folder, gone)
    except FileNotFoundError:  # another process prunes too
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _allocate(path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """An array of zeros in a file. Its blocks are reserved now: writing to a mapped file on a full disk is a crash
    (SIGBUS), while reserving them on one is an error that can be told."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):  # others: a file system that cannot reserve
                    raise
