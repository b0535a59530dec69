"""Images in Parquet files: read by row groups, of which the last few stay in memory.

A page of a row group is compressed as a whole, so that an image cannot be read alone. Loops over images in their order
read each group once. One that picks them at random reads a group for each image once the groups no longer fit.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.decoding import decode
from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.labelled.columns import row_of
from dinobench.files import Signature, open_regular, signature

#: Bytes of images that a process keeps of the groups it read last, and that one group may hold. `datasets` writes
#: groups of 100 images or about 10 MB; older ones of 1,000 are a tenth of the limit.
KEPT, LARGEST = 512 << 20, 1 << 30
#: Rows decoded at once: a file that repeats one large image for ever is refused before it fills the memory.
ROWS = 16


class Group(NamedTuple):
    """A row group: its file below the root, its number in it, the row of the split that it starts with."""

    file: str
    number: int
    first: int


@dataclass(frozen=True)
class GroupPlaces(Mapping[str, fingerprint.Place]):
    """For every image the file that it is in. Where in it cannot be told, so offset and size are 0."""

    groups: Mapping[str, tuple[Group, ...]]

    def group(self, name: str) -> tuple[Group, int]:
        """The group of an image and its row in it."""
        split, row = row_of(name)
        groups = self.groups[split]
        found = groups[bisect_right(groups, row, key=lambda g: g.first) - 1]
        return found, row - found.first

    def __getitem__(self, name: str) -> fingerprint.Place:
        return self.group(name)[0].file, 0, 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))


@dataclass(eq=False)
class ParquetSplit(FileSplit):
    """Images in the column `column` of Parquet files, in its field `inside` where it is a struct."""

    groups: GroupPlaces = GroupPlaces({})
    column: str = "image"
    inside: str = "bytes"

    def encoded(self, name: str) -> bytes:
        """The bytes of an image's file. Raises OSError where they cannot be read or are not there."""
        group, row = self.groups.group(name)
        rows = _GROUPS.get((os.path.join(self.root, group.file), group.number, self.column, self.inside))
        if row >= len(rows):
            raise OSError("the file has fewer rows than before")
        if (content := rows[row]) is None:
            raise OSError("no image in this row")
        return content

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image; raises one of `BROKEN_IMAGE` when it cannot be decoded."""
        return decode(BytesIO(self.encoded(self.ids[index])))

    def hashed(self, remember: Path, progress: Progress | None = None) -> np.ndarray:
        """(n, 32) uint8: the SHA-256 of each image's bytes, zeros for one that cannot be read."""
        return fingerprint.hash_files(Path(self.root), self.ids, remember, progress, self.groups, self.encoded)


Key = tuple[str, int, str, str]
Rows = list[bytes | None]


class _Groups:
    """Groups read last, up to `KEPT` bytes of them. Threads may ask at once; one reads, the others wait for it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Key, Signature], tuple[Rows, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._busy: dict[Key, threading.Lock] = {}

    def get(self, key: Key) -> Rows:
        """The images of a group. Raises OSError where it cannot be read."""
        known = key, signature(os.stat(key[0]))
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            with self._lock:
                if known in self._kept:
                    self._kept.move_to_end(known)
                    return self._kept[known][0]
            rows = read_group(*key)
            with self._lock:
                self._busy.pop(key, None)
                self._kept[known] = rows, sum(len(row) for row in rows if row)
                while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > KEPT:
                    self._kept.popitem(last=False)
        return rows


_GROUPS = _Groups()


def read_group(file: str, number: int, column: str, inside: str) -> Rows:
    """The images of a row group, None for a row without. Raises OSError where they cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: Rows = []
    room = LARGEST
    try:
        with open_regular(file) as opened:
            table = pq.ParquetFile(opened)
            chosen = [f"{column}.{inside}" if inside else column]
            for batch in table.iter_batches(ROWS, row_groups=[number], columns=chosen, use_threads=False):
                found = batch.column(0)
                for value in found.flatten()[0] if inside else found:
                    rows.append(value.as_py())
                    room -= len(rows[-1] or b"")
                if room < 0:
                    raise OSError(f"row group {number} holds over {LARGEST:,} bytes of images; write smaller ones")
    except (pa.ArrowException, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise OSError(f"damaged row group {number}: {' '.join(str(error).split())[:120]}") from error
    return rows
