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
    """The bytes of a file. Raises OSError at once for what would block or never end, and above `limit` bytes.

    A pipe or a device in a folder of files must not hold up everybody who reads the folder.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, above the limit of {limit:,}", os.fspath(path))
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
