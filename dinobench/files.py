"""Files written whole or not at all, and the folder for what can be made again."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dinobench.errors import UserError


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


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user wrote it, `~` and `~name` expanded. Raises UserError where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{os.fspath(path)}: no home folder of that user; write the path out") from error


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
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
