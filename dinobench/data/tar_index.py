"""What lies where in tar archives, so that images are read from their places without unpacking."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from dinobench.data.fingerprint import Place
from dinobench.errors import UserError
from dinobench.files import keep, open_regular, recall, settled, signature_of
from dinobench.hashing import digest

#: Files in one archive at most: ImageNet-22k has 14 million images in 21,841 archives.
MEMBERS = 20_000_000
#: Folder of the cache that archives' contents are remembered in, and the files of an archive that are: a shard has some
#: thousands, whose headers take a second to read.
MEMORY, REMEMBERED = "archives", 300_000


def members(archive: Path, odd: list[str] | None = None, inner: Place | None = None) -> Iterator[tuple[str, Place]]:
    """(name in the archive, its place) of every regular file in an uncompressed tar; the place's file is its name.

    Links and other kinds are passed over, those that are no folders named to `odd`. `inner` is the place of an archive
    within this one that is looked through in its stead. What was found is remembered while the archive stays the same.
    Raises UserError when the archive is damaged, compressed or no tar.
    """
    found = signature_of(archive)
    key = digest(os.path.realpath(archive), found, inner) if found and settled(found) else ""
    if key and (known := _recalled(key)):
        names, offsets, sizes, others = known
        if odd is not None:
            odd += others
        for name, offset, size in zip(names, offsets, sizes, strict=True):
            yield name, (archive.name, offset, size)
        return
    names, offsets, sizes, others = [], [], [], []
    count = 0
    for count, (name, offset, size) in enumerate(_read(archive, others, inner), 1):
        if count <= REMEMBERED:
            names.append(name)
            offsets.append(offset)
            sizes.append(size)
        yield name, (archive.name, offset, size)
    if odd is not None:
        odd += others
    if key and count <= REMEMBERED:
        keep(MEMORY, key, [names, offsets, sizes, others])


def _recalled(key: str) -> tuple[list[str], list[int], list[int], list[str]] | None:
    known = recall(MEMORY, key)
    if not isinstance(known, list) or len(known) != 4 or not all(isinstance(part, list) for part in known):
        return None
    names, offsets, sizes, others = known
    return (names, offsets, sizes, others) if len(names) == len(offsets) == len(sizes) else None


def _read(archive: Path, odd: list[str], inner: Place | None) -> Iterator[tuple[str, int, int]]:
    """(name, offset in the file, size) of the regular files."""
    try:
        with open_regular(archive) as file:
            start, end = (inner[1], inner[1] + inner[2]) if inner else (0, archive.stat().st_size)
            part = cast(BinaryIO, io.BufferedReader(_Window(file, start, end))) if inner else file
            with tarfile.open(fileobj=part, mode="r:") as tar:
                for number, member in enumerate(tar):
                    if number >= MEMBERS:
                        raise UserError(f"{archive}: more than {MEMBERS:,} files in one archive; split it")
                    if not member.isreg() or member.issparse():
                        if not member.isdir():
                            odd.append(member.name)
                        continue
                    offset = start + member.offset_data
                    if member.size < 0 or offset + member.size > end:
                        raise UserError(f"{archive}: ends within {member.name!r:.80}; copy it again")
                    yield member.name, offset, member.size
                    tar.members.clear()  # type: ignore[attr-defined]  # or all of them are kept
    except (tarfile.TarError, EOFError, ValueError, OverflowError, UnicodeError) as error:
        raise UserError(f"{archive}: no tar archive that can be read ({error}); uncompressed ones can") from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be read: {error.strerror or error}") from error


class _Window(io.RawIOBase):
    """Part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._end, self._at = file, start, end, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at - self._start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._at)
        content = self._file.read(max(0, min(len(buffer), self._end - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
