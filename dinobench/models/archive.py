"""Where the records of a torch.save zip file lie, believed only after its directory and its checksums agree.

torch maps the file and takes a tensor's bytes from where the directory says, unchecked: a moved entry, a compressed or
a short one gives other bytes as weights. So each entry is held against its own header, entries may not overlap, none
is compressed, and each has the CRC-32 that it was stored with. Two programs may read one ambiguous directory in two
ways; nothing ambiguous is let through.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass

from dinobench.models.inert_pickle import Rejected

MAX_ENTRIES = 200_000  # of a checkpoint with as many tensors, ten times the largest vision models with their optimizer
CHUNK = 1 << 24  # bytes of a checksum's step

# APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_FLAGS = 0x0808  # sizes in a descriptor after the data; names in UTF-8
_ONES = 0xFFFFFFFF
DAMAGED = "is truncated or damaged (its zip directory); copy or download it again"
DAMAGED_DATA = "is damaged (a checksum is wrong); copy or download it again"
COMPRESSED = "has records that are compressed, which torch.load maps as they are; torch.save its content again"


@dataclass(frozen=True)
class Record:
    """One file in the archive: the position of its first byte, and how many bytes it has."""

    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class _Entry:
    name: bytes
    flags: int
    method: int
    header: int  # position of the local header
    size: int
    packed: int
    crc: int


def records(data: mmap.mmap) -> dict[str, Record]:
    """The records of an archive by their name below its one folder. Raises Rejected for one that is not sound."""
    try:
        start, stop, count = _directory(data)
        entries = _entries(data, start, stop, count)
        _recognise(entries)
        found = {entry.name: _locate(data, entry, start) for entry in entries}
        names = [name.decode().partition("/") for name in found]
    except (struct.error, ValueError, IndexError):
        raise Rejected(DAMAGED) from None
    if len({folder for folder, _, _ in names}) != 1 or len({name.lower() for name in found}) != count:
        raise Rejected(DAMAGED)  # torch looks below the first entry's folder, and does not mind capitals
    last = 0
    for record in sorted(found.values(), key=lambda r: (r.offset, r.size)):
        if record.offset < last:
            raise Rejected(DAMAGED)
        last = record.offset + record.size
    _check(data, list(found.values()))
    return {name: record for (_, _, name), record in zip(names, found.values(), strict=True)}


def _directory(data: mmap.mmap) -> tuple[int, int, int]:
    """Start, end and number of entries of the central directory, which ends where the end record starts."""
    last = len(data) - _END.size
    mark, disk, first, here, count, size, start, comment = _END.unpack_from(data, last)
    if mark != b"PK\5\6" or disk or first or comment:
        raise ValueError
    stop = last
    if data[last - _LOCATOR.size : last - _LOCATOR.size + 4] == b"PK\6\7":
        stop = last - _LOCATOR.size - _END64.size
        _, disk64, position, disks = _LOCATOR.unpack_from(data, last - _LOCATOR.size)
        mark64, length, _, _, disk, first, here64, count64, size64, start64 = _END64.unpack_from(data, stop)
        small = ((here, here64, 0xFFFF), (count, count64, 0xFFFF), (size, size64, _ONES), (start, start64, _ONES))
        if mark64 != b"PK\6\6" or length != _END64.size - 12 or position != stop or disk64 or disks != 1:
            raise ValueError
        if disk or first or any(short not in (long, full) for short, long, full in small):
            raise ValueError
        here, count, size, start = here64, count64, size64, start64
    if here != count or not 0 < count <= MAX_ENTRIES or start + size != stop:
        raise ValueError
    return start, stop, count


def _entries(data: mmap.mmap, start: int, stop: int, count: int) -> list[_Entry]:
    found = []
    for _ in range(count):
        mark, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, disk, _, _, header = (
            _ENTRY.unpack_from(data, start)
        )
        start += _ENTRY.size
        if mark != b"PK\1\2" or disk or comment:
            raise ValueError
        size, packed, header = _wide(data[start + name : start + name + extra], (size, packed, header))
        found.append(_Entry(data[start : start + name], flags, method, header, size, packed, crc))
        start += name + extra
    if start != stop:
        raise ValueError
    return found


def _recognise(entries: list[_Entry]) -> None:
    """Raises Rejected for archives that are something else, and for compressed ones."""
    names = {entry.name.partition(b"/")[2] for entry in entries}
    if b"constants.pkl" in names:
        raise Rejected("is a TorchScript archive, which carries code; save the model's state_dict() instead")
    if entries and all(entry.name.endswith(b".npy") for entry in entries):  # TIPS's own files, and big_vision's
        raise Rejected(
            "is a NumPy archive; save it for PyTorch: torch.save({name: torch.from_numpy(array) for name, array in "
            "numpy.load(file).items()}, 'model.pth')"
        )
    if b"data.pkl" not in names:
        raise Rejected("is a zip archive but not a checkpoint; give the file written by torch.save")
    if any(entry.method for entry in entries):
        raise Rejected(COMPRESSED)


def _wide(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers that do not fit into 32 bits stand in the one extra field of kind 1, in their order (4.5.3)."""
    fields = b""
    while extra:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            if fields or length > len(extra) - 4:
                raise ValueError
            fields = extra[4 : 4 + length]
        extra = extra[4 + length :]
    numbers = iter(struct.unpack(f"<{len(fields) // 8}Q", fields[: len(fields) // 8 * 8]))
    wide = tuple(next(numbers, -1) if value == _ONES else value for value in values)
    if min(wide) < 0:
        raise ValueError
    return wide


def _locate(data: mmap.mmap, entry: _Entry, directory: int) -> Record:
    """The entry's bytes, by its own header, which must say what the directory says."""
    mark, _, flags, method, _, _, crc, packed, size, name, extra = _LOCAL.unpack_from(data, entry.header)
    place = entry.header + _LOCAL.size
    if entry.flags & ~_FLAGS or entry.size != entry.packed:
        raise ValueError
    if mark != b"PK\3\4" or (flags, method) != (entry.flags, 0) or data[place : place + name] != entry.name:
        raise ValueError
    if not flags & 8:  # else they follow the data
        size, packed = _wide(data[place + name : place + name + extra], (size, packed))
        if (crc, size, packed) != (entry.crc, entry.size, entry.size):
            raise ValueError
    offset = place + name + extra
    if offset + entry.size > directory:
        raise ValueError
    return Record(offset, entry.size, entry.crc)


def _check(data: mmap.mmap, found: list[Record]) -> None:
    """Compare the CRC-32 of every record, unless the file was saved without any (`set_crc32_options(False)`)."""
    if not any(record.crc for record in found):
        return
    with memoryview(data) as view:
        for record in found:
            crc = 0
            for start in range(record.offset, record.offset + record.size, CHUNK):
                with view[start : min(start + CHUNK, record.offset + record.size)] as part:
                    crc = zlib.crc32(part, crc)
            if crc != record.crc:
                raise Rejected(DAMAGED_DATA)
