"""What lies where in tar archives, so that images are read from their places without unpacking."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from dinobench.data.fingerprint import Place
from dinobench.errors import UserError
from dinobench.files import open_regular

#: Files in one archive at most: ImageNet-22k has 14 million images in 21,841 archives.
MEMBERS = 20_000_000


def members(archive: Path) -> Iterator[tuple[str, Place]]:
    """(name in the archive, its place) of every regular file in an uncompressed tar; the place's file is its name.

    Links and other kinds are passed over. Raises UserError when the archive is damaged, compressed or no tar.
    """
    try:
        with open_regular(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = archive.stat().st_size
            for number, member in enumerate(tar):
                if number >= MEMBERS:
                    raise UserError(f"{archive}: more than {MEMBERS:,} files in one archive; split it")
                if not member.isreg() or member.issparse():
                    continue
                if member.size < 0 or member.offset_data + member.size > end:
                    raise UserError(f"{archive}: ends within {member.name!r:.80}; copy it again")
                yield member.name, (archive.name, member.offset_data, member.size)
                tar.members.clear()  # type: ignore[attr-defined]  # or all of them are kept
    except (tarfile.TarError, EOFError, ValueError, OverflowError, UnicodeError) as error:
        raise UserError(f"{archive}: no tar archive that can be read ({error}); uncompressed ones can") from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be read: {error.strerror or error}") from error
