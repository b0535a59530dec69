"""MATLAB's files of version 5 to 7, read without believing them: scipy's reader ends the process on damaged ones.

(MathWorks, "MAT-File Format", chapter 1: a header of 128 bytes, then elements, each a tag with type and number of bytes
and its content; arrays are elements made of elements.) Numbers, texts, cells and structures are read, which are what
data sets hold; objects, functions and sparse arrays are refused.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np

#: Bytes that compressed parts of a file may unpack to in all.
UNPACKED = 256 << 20
#: Arrays within arrays at most.
DEPTH = 16
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
#: Type of an element -> of its numbers; 16 to 18 are texts in UTF-8, 16 and 32.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1",
          17: "u2", 18: "u4"}  # fmt: skip
#: Classes of arrays.
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)


def read_mat(content: bytes) -> dict[str, Any]:
    """The variables in a file.

    Arrays of numbers are as they were saved, texts str (one for each row where they have several), cells lists,
    structures lists of a dict each; cells and structures are flat, by columns. Raises ValueError for what is damaged or
    of another kind.
    """
    if len(content) < _HEADER or content[126:128] not in (b"IM", b"MI") or b"MATLAB 5.0" not in content[:116]:
        raise ValueError("no MAT file of version 5 to 7")
    try:
        return _File("<" if content[126:128] == b"IM" else ">").variables(memoryview(content)[_HEADER:])
    except (struct.error, zlib.error, LookupError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"damaged ({error})") from error


class _File:
    def __init__(self, order: str) -> None:
        self.order, self.room = order, UNPACKED

    def variables(self, data: memoryview) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while len(data) >= 8:
            kind, part, data = self.element(data)
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                unpacked = unpacker.decompress(part, self.room + 1)
                self.room -= len(unpacked)
                if self.room < 0:
                    raise ValueError(f"more than {UNPACKED:,} bytes")
                if not unpacker.eof:
                    raise ValueError("cut short")
                kind, part, _ = self.element(memoryview(unpacked))
            if kind == _MATRIX:
                name, value = self.array(part)
                found[name] = value
        return found

    def element(self, data: memoryview) -> tuple[int, memoryview, memoryview]:
        """(type, content, what follows)."""
        kind, size = struct.unpack(f"{self.order}II", data[:8])
        if kind >> 16:  # four bytes or fewer, in the tag itself
            if kind >> 16 > 4:
                raise ValueError("an element of more bytes than its tag has room for")
            return kind & 0xFFFF, data[4 : 4 + (kind >> 16)], data[8:]
        if size > len(data) - 8:
            raise ValueError("cut short")
        end = 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
        return kind, data[8 : 8 + size], data[end:]

    def numbers(self, data: memoryview) -> tuple[np.ndarray, memoryview]:
        kind, part, rest = self.element(data)
        dtype = np.dtype(self.order + _TYPES[kind])
        if len(part) % dtype.itemsize:
            raise ValueError("numbers that are cut off")
        return np.frombuffer(part, dtype), rest

    def array(self, data: memoryview, depth: int = 0) -> tuple[str, Any]:
        """(name, value) of an array element's content."""
        if depth > DEPTH:
            raise ValueError(f"more than {DEPTH} arrays within each other")
        if not len(data):  # how an empty field is written
            return "", np.empty((0, 0))
        flags, data = self.numbers(data)
        kind = int(flags[0]) & 0xFF
        shape_, data = self.numbers(data)
        shape = [int(side) for side in shape_]
        if not 2 <= len(shape) <= 8 or min(shape) < 0:
            raise ValueError("an array of impossible shape")
        count = math.prod(shape)
        name_, data = self.numbers(data)
        name = name_.tobytes().decode("latin-1")
        if kind == _CELL:
            return name, self.arrays(data, count, depth)
        if kind == _STRUCT:
            (width,), data = self.numbers(data)
            names_, data = self.numbers(data)
            raw, width = names_.tobytes(), int(width)
            if not 1 <= width <= 64 or len(raw) % width:
                raise ValueError("names of fields that are cut off")
            fields = [raw[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(raw), width)]
            held = self.arrays(data, count * len(fields), depth)
            step = len(fields)
            return name, [dict(zip(fields, held[i : i + step], strict=True)) for i in range(0, len(held), step or 1)]
        if kind != _CHAR and kind not in _NUMBERS:
            raise ValueError("an array of another kind than numbers, texts, cells and structures")
        values, _ = self.numbers(data)
        if kind == _CHAR:
            return name, _text(values, shape)
        if len(values) != count:
            raise ValueError(f"{len(values):,} numbers for an array of {count:,}")
        return name, values.reshape(shape, order="F")

    def arrays(self, data: memoryview, count: int, depth: int) -> list[Any]:
        if count > len(data) // 8:  # each takes eight bytes at least
            raise ValueError("fewer arrays than there should be")
        found = []
        for _ in range(count):
            kind, part, data = self.element(data)
            if kind != _MATRIX:
                raise ValueError("an array that is none")
            found.append(self.array(part, depth + 1)[1])
        return found


def _text(codes: np.ndarray, shape: list[int]) -> str | list[str]:
    if codes.dtype.itemsize == 1 and max(codes, default=0) > 127:  # UTF-8, whose signs may be fewer than its bytes
        return bytes(codes.astype(np.uint8)).decode()
    if len(codes) != math.prod(shape):
        raise ValueError(f"{len(codes):,} letters for {math.prod(shape):,}")
    rows = ["".join(map(chr, row)).rstrip() for row in codes.reshape(shape[0], -1, order="F").tolist()]
    return rows[0] if len(rows) == 1 else rows if rows else ""
