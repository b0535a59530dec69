"""Files written whole or not at all, and the folder for what can be made again."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from dinobench.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Size, times of change (of content and of the rest, in ns) and inode of a file: what changes whenever it does.
Signature: TypeAlias = tuple[int, int, int, int]
#: Two writes within one tick of the file system's clock leave the same signature (git calls such files racily clean),
#: so of a file that changed this recently, in nanoseconds, nothing is believed next time.
SETTLED_NS = 2_000_000_000
#: Bytes of what is remembered of files at most: ten thousand records take one megabyte.
MEMORY = 64 << 20
#: Seconds after which a temporary file is one that a killed process left: writing takes moments.
LEFT_BEHIND = 3600


def cache_root() -> Path:
    """The folder for everything that may be deleted at any time.

    `DINOBENCH_CACHE` if set, else `dinobench` under the platform's cache folder (`XDG_CACHE_HOME` or `~/.cache`,
    `~/Library/Caches`, `%LOCALAPPDATA%`), else under the temporary folder for accounts without a home.
    The folder need not exist yet.
    """
    if chosen := os.environ.get("DINOBENCH_CACHE"):
        return user_path(chosen)
    try:
        home = Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "dinobench"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "dinobench"
    variable, fallback = ("LOCALAPPDATA", "AppData/Local") if os.name == "nt" else ("XDG_CACHE_HOME", ".cache")
    return Path(os.environ.get(variable) or home / fallback) / "dinobench"


#: What may stand where a file is expected: opening it may wait for ever, and reading it may have no end.
_OTHER_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


def open_regular(path: str | os.PathLike[str], buffering: int = -1) -> BinaryIO:
    """The regular file at `path`, or at the end of its links, open for reading; it never waits.

    Raises OSError for what cannot be opened, endless links among it, and for pipes, devices, sockets and folders.
    """
    _require_regular(path, os.stat(path).st_mode)  # before it is opened, because opening a device may change it

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # should a pipe have taken its place meanwhile

    file: BinaryIO = open(path, "rb", buffering=buffering, opener=opened)  # noqa: SIM115
    try:
        _require_regular(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def _require_regular(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _OTHER_KINDS if is_kind(mode)), "something else")
        raise OSError(f"{kind}, not a file")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well and vanishes when it does not.

    Its bytes are on the disk before it takes the name, so that a power cut leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if not any(kind(path.lstat().st_mode) for kind in (stat.S_ISREG, stat.S_ISLNK, stat.S_ISDIR)):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))  # root would replace /dev/null by a file
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; results are for sharing
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, new or empty, that becomes `path` when the block ends well, else vanishes.

    One that a killed process left goes when the next one wants the same `path`: the lock on it, which the system lets
    go of however its holder dies, tells the dead from the living. Where there are no such locks it stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    start, end = f".{path.name}.", ".partial"
    for left in path.parent.iterdir():
        if left.name.startswith(start) and left.name.endswith(end) and left.is_dir() and not left.is_symlink():
            with locked_folder(left) as ours:
                if ours:
                    shutil.rmtree(left, ignore_errors=True)
    while True:
        partial = Path(tempfile.mkdtemp(prefix=start, suffix=end, dir=path.parent))
        with locked_folder(partial) as ours:
            if ours is False or not partial.is_dir():  # taken for a dead one's before it was locked
                continue
            try:
                yield partial
                partial.chmod(0o777 & ~_umask())  # mkdtemp's folders are private
                if os.name == "nt" and path.exists():  # elsewhere an empty folder gives way to a renamed one
                    path.rmdir()
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            return


@contextmanager
def locked_folder(path: Path, wait: bool = False) -> Iterator[bool | None]:
    """Whether the folder's lock is ours while the block runs; None where the system or its disk has no such locks.

    `wait` for whoever has it; the system lets go of a lock when its holder dies, however it dies.
    """
    if fcntl is None:
        yield None
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield False  # gone meanwhile
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            ours: bool | None = True
        except BlockingIOError:
            ours = False
        except OSError:
            ours = None
        yield ours
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files of `atomic_path` that killed processes left in a folder, those over an hour old."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - LEFT_BEHIND:
                        os.unlink(entry.path)


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user wrote it, `~` and `~name` expanded. Raises UserError where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{os.fspath(path)}: no home folder of that user; write the path out") from error
    except ValueError as error:
        raise UserError(f"{os.fspath(path)!a}: no user's name holds a NUL; write the path without") from error


def file_name(text: str) -> str:
    """A name that somebody chose as the name of one file or folder: letters, digits, dots, and dashes for the rest.

    >>> file_name("../my model"), file_name("..")
    ('my-model', 'unnamed')
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:100] or "unnamed"


def read_regular(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The bytes of a regular file. Raises OSError for what `open_regular` refuses, and above `limit` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"{size:,} bytes, above the limit of {limit:,}", os.fspath(path))
        return file.read()


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user named, whole or not at all. Raises UserError when it cannot be written."""
    try:
        _refuse_to_replace(path)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_output(path: Path) -> None:
    """Raises UserError before the work, and not after it, where `write_output` could not write the file."""
    try:
        _refuse_to_replace(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def writable_folder(path: Path) -> None:
    """Make a folder that the user named. Raises UserError before the work where no file can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # a name of its own: many processes may start at once
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; choose another folder") from error


def _refuse_to_replace(path: Path) -> None:
    """Raises OSError for a folder, a device or a pipe, which a renamed file would take the place of or fail to."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "a folder" if path.is_dir() else "not a regular file", str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def signature(found: os.stat_result) -> Signature:
    """The signature of a file; its inode is cut to 63 bits because some file systems use more."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1)


def signature_of(path: str | os.PathLike[str]) -> Signature | None:
    """The signature of the regular file at `path`, or at the end of its links; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return signature(found) if stat.S_ISREG(found.st_mode) else None


def settled(found: Signature) -> bool:
    """Whether a file has been at rest for so long that a later change must show in its signature."""
    return time.time_ns() - max(found[1:3]) > SETTLED_NS


def recall(kind: str, key: str) -> Any:
    """The JSON value that `keep` left in the cache, or None: it may be deleted or damaged at any time."""
    try:
        return json.loads(read_regular(_memory(kind, key), MEMORY))
    except (OSError, ValueError, RecursionError):
        return None


def keep(kind: str, key: str, value: Any) -> None:
    """Remember a JSON value; processes that race write whole files each, and a cache that cannot be written is none."""
    with suppress(OSError), atomic_path(_memory(kind, key)) as temporary:
        temporary.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


def _memory(kind: str, key: str) -> Path:
    return cache_root() / kind / f"{key}.json"
