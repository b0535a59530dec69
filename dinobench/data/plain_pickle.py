"""Pickles of containers, numbers, texts and arrays, read without calling anything that a pickle names.

Python's unpickler calls what a file asks for, with what it says. Forbidding all names but NumPy's is not enough:
`numpy.core.multiarray._reconstruct` and `numpy.dtype` suffice to make an array of objects out of bytes, `bytes` and
`_reconstruct` take memory by the gigabyte, and a deep tuple as a key ends the process. So the opcodes of plain data are
carried out here (see Python's Lib/pickletools.py for what each means), names are looked up in a table of our own, and
an array is bytes whose number fits its shape and type. Python 2's texts are read as Latin-1, as it wrote arrays into
them.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from dinobench.files import open_regular

#: CIFAR-100's training file, the largest of those that are read here, has 155 MB and some 400,000 opcodes.
MAX_BYTES, MAX_OPCODES = 200_000_000, 2_000_000
#: Boolean, integer and float types up to 8 bytes, texts, and objects, which are plain data again.
_TYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,3}|O8?)")
_BUILTINS = ("builtins", "__builtin__")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # NumPy moved its home in version 2
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


class ForeignName(Exception):
    """The pickle asks for something that is no data; the message is its name."""


class DamagedPickle(Exception):
    """The file is no pickle of plain data; the message says why, in one line."""


def read_plain(path: str | os.PathLike[str]) -> Any:
    """What the pickle holds: None, bool, int, float, str, bytes, list, tuple, dict, set, and NumPy arrays.

    Keys are texts and whole numbers. Arrays may not be written to. Raises `ForeignName`, `DamagedPickle`, OSError.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_BYTES:
            raise DamagedPickle(f"more than {MAX_BYTES:,} bytes")
        data = stream.read(size)
    return plain(data)


def plain(data: bytes) -> Any:
    """What the bytes of a pickle hold, as `read_plain` has it of a file."""
    try:
        return _Machine(data).run()
    except ForeignName:
        raise
    except Exception as error:  # nonsense raises whatever it leads to
        message = " ".join(str(error).split())[:100]
        raise DamagedPickle(message or type(error).__name__) from error


class _Global:
    """A name that the pickle asks for, and what is done when it calls it."""

    def __init__(self, call: Callable[[_Machine, tuple[Any, ...]], Any] | None) -> None:
        self.call = call


class _Type:
    """A NumPy type under construction."""

    def __init__(self, name: Any) -> None:
        if not isinstance(name, str) or not (found := _TYPES.fullmatch(name)):
            raise ValueError("an array of another type than numbers and texts")
        self.name, self.order = found[1], name[0] if name[0] in "<>" else "<"

    def set(self, state: Any) -> None:
        _, order, *structure = state[:5]
        if structure != [None] * 3 or order not in ("<", ">", "|", "="):
            raise ValueError("an array of structures")
        self.order = ">" if order == ">" else "<"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


class _Array:
    """An array of which only the kind is known yet."""


class _Machine:
    """Python's pickle machine for the opcodes of plain data: a stack, marks in it, and a memo."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under each mark
        self.memo: dict[int, Any] = {}
        self.places: dict[int, list[int]] = {}  # where in the memo an array under construction is, by its identity
        self.room = 4 * len(data) + 4096  # bytes that copies of what was read may take in all

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = self.take(1)
            if code == b".":
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise ValueError(f"opcode {code!r} is none of plain data")
            operation(self)
        raise ValueError(f"more than {MAX_OPCODES:,} opcodes")

    def take(self, size: int) -> bytes:
        end = self.at + size
        if not self.at <= end <= len(self.data):
            raise EOFError("cut short")
        part = self.data[self.at : end]
        self.at = end
        return part

    def line(self, longest: int | None = None) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0 or (longest is not None and end - self.at > longest):
            raise ValueError("a line without end")
        part = self.data[self.at : end]
        self.at = end + 1
        return part

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def drop(self, size: int) -> list[Any]:
        if len(self.stack) < size:
            raise ValueError("a stack too small")
        items = self.stack[-size:]
        del self.stack[-size:]
        return items

    def pay(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise ValueError("copies of more than the file holds")

    def remember(self, index: int) -> None:
        value = self.memo[index] = self.stack[-1]
        if isinstance(value, _Array):
            self.places.setdefault(id(value), []).append(index)

    def look_up(self, module: Any, name: Any) -> None:
        found = _NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise ForeignName(_printable(f"{module}.{name}"))
        self.push(found)

    def call(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Global) or called.call is None or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no constructor")
        self.push(called.call(self, arguments))

    def build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple):
            raise ValueError("a state that is no tuple")
        if isinstance(built, _Type):
            built.set(state)
        elif isinstance(built, _Array):  # whatever refers to it from here on finds the array in its place
            shape, kind, by_columns, content = state[-4:]
            self.stack[-1] = _array(self, content, kind, shape, bool(by_columns))
            for index in self.places.pop(id(built), []):
                if self.memo[index] is built:
                    self.memo[index] = self.stack[-1]
        else:
            raise ValueError("a state for what is no array")


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:100]


def _array(machine: _Machine, content: Any, kind: Any, shape: Any, by_columns: bool) -> Any:
    """The checked array, a view of its bytes; of objects a list."""
    if not isinstance(kind, _Type) or not isinstance(shape, tuple) or len(shape) > 8:
        raise ValueError("an array without type or shape")
    if not all(type(side) is int and 0 <= side <= 2**31 for side in shape):
        raise ValueError("an array of impossible shape")
    numbers = math.prod(shape)
    if kind.name.startswith("O"):
        if not isinstance(content, list) or len(shape) != 1 or len(content) != numbers:
            raise ValueError("an array of objects that are not there")
        return content
    raw, dtype = _bytes(machine, content), kind.dtype
    if len(raw) != numbers * dtype.itemsize:
        raise ValueError(f"an array of {numbers:,} values of {dtype.itemsize} bytes in {len(raw):,} bytes")
    if kind.name == "b1" and raw.strip(b"\x00\x01"):
        raise ValueError("truth values other than 0 and 1")
    flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if by_columns else "C")


def _bytes(machine: _Machine, content: Any) -> bytes:
    if isinstance(content, str):
        machine.pay(len(content))
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError("an array without bytes")
    return content


def _scalar(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    kind, content = arguments
    value = _array(machine, content, kind, (1,), by_columns=False)
    return value[0] if isinstance(value, list) else value[0].item()


def _from_buffer(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    content, kind, shape, order = arguments
    return _array(machine, content, kind, shape, order == "F")


def _to_bytes(machine: _Machine, arguments: tuple[Any, ...]) -> bytes:
    """bytes(), bytearray(b"…"), bytearray("…", "latin-1") and _codecs.encode("…", "latin1")."""
    if arguments[1:] not in ((), ("latin1",), ("latin-1",)):
        raise ValueError("bytes in another encoding than Latin-1")
    return _bytes(machine, arguments[0]) if arguments else b""


def _to_set(machine: _Machine, arguments: tuple[Any, ...]) -> set[Any]:
    (items,) = arguments
    if not isinstance(items, list):
        raise ValueError("a set of what is no list")
    machine.pay(len(items))
    return set(map(_key, items))


def _key(value: Any) -> Any:
    """What may be a key. Hashing a deep tuple overflows the stack, and one that holds itself twice takes for ever."""
    if not isinstance(value, str | int):
        raise ValueError("a key that is neither text nor a whole number")
    return value


_NAMES: dict[tuple[str, str], _Global] = {
    ("numpy", "ndarray"): _Global(None),
    ("numpy", "dtype"): _Global(lambda machine, arguments: _Type(arguments[0])),
    ("_codecs", "encode"): _Global(_to_bytes),
    **{(module, "_reconstruct"): _Global(lambda machine, arguments: _Array()) for module in _MULTIARRAY},
    **{(module, "scalar"): _Global(_scalar) for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _Global(_from_buffer) for module in _NUMERIC},
    **{(module, kind): _Global(_to_bytes) for module in _BUILTINS for kind in ("bytes", "bytearray")},
    **{(module, kind): _Global(_to_set) for module in _BUILTINS for kind in ("set", "frozenset")},
}


def _whole(value: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise ValueError("a number of more than 64 bits")
    return value


def _long(machine: _Machine, size: int) -> int:
    if not 0 <= size <= 9:
        raise ValueError("a number of more than 64 bits")
    return _whole(int.from_bytes(machine.take(size), "little", signed=True))


def _int_line(machine: _Machine) -> int:
    line = machine.line(30)
    return {b"00": False, b"01": True}.get(line, _whole(int(line.removesuffix(b"L") or b"0")))


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _fill_list(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("items for what is no list")
    target += items


def _fill_dict(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("pairs for what is no dictionary")
    target.update(zip(map(_key, items[::2]), items[1::2], strict=True))


def _fill_set(target: Any, items: list[Any]) -> None:
    if not isinstance(target, set):
        raise ValueError("items for what is no set")
    target.update(map(_key, items))


def _pushed(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.push(value(m))


def _filled(kind: Callable[[], Any], fill: Callable[[Any, list[Any]], None]) -> Any:
    """A container made of all down to the mark."""

    def make(m: _Machine) -> Any:
        made = kind()
        fill(made, m.to_mark())
        return made

    return _pushed(make)


def _filling(fill: Callable[[Any, list[Any]], None]) -> Callable[[_Machine], None]:
    def into(m: _Machine) -> None:
        items = m.to_mark()
        fill(m.stack[-1], items)

    return into


_OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO, FRAME
    b"\x95": lambda m: m.take(8),
    b"(": _Machine.mark,
    b"0": lambda m: m.stack.pop() if m.stack else m.to_mark(),
    b"1": _Machine.to_mark,
    b"2": _pushed(lambda m: m.stack[-1]),
    b"N": _pushed(lambda m: None),
    b"\x88": _pushed(lambda m: True),
    b"\x89": _pushed(lambda m: False),
    b"I": _pushed(_int_line),
    b"L": _pushed(_int_line),
    b"J": _pushed(lambda m: m.number("<i")),
    b"K": _pushed(lambda m: m.number("<B")),
    b"M": _pushed(lambda m: m.number("<H")),
    b"\x8a": _pushed(lambda m: _long(m, m.number("<B"))),
    b"\x8b": _pushed(lambda m: _long(m, m.number("<i"))),
    b"F": _pushed(lambda m: float(m.line(60))),
    b"G": _pushed(lambda m: m.number(">d")),
    b"S": _pushed(lambda m: _quoted(m.line())),
    b"T": _pushed(lambda m: m.take(m.number("<i")).decode("latin-1")),
    b"U": _pushed(lambda m: m.take(m.number("<B")).decode("latin-1")),
    b"V": _pushed(lambda m: m.line().decode("raw-unicode-escape")),
    b"X": _pushed(lambda m: _text(m.take(m.number("<I")))),
    b"\x8c": _pushed(lambda m: _text(m.take(m.number("<B")))),
    b"\x8d": _pushed(lambda m: _text(m.take(m.number("<Q")))),
    b"B": _pushed(lambda m: m.take(m.number("<I"))),
    b"C": _pushed(lambda m: m.take(m.number("<B"))),
    b"\x8e": _pushed(lambda m: m.take(m.number("<Q"))),
    b"\x96": _pushed(lambda m: m.take(m.number("<Q"))),
    b"]": _pushed(lambda m: []),
    b"}": _pushed(lambda m: {}),
    b"\x8f": _pushed(lambda m: set()),
    b")": _pushed(lambda m: ()),
    b"l": _pushed(_Machine.to_mark),
    b"t": _pushed(lambda m: tuple(m.to_mark())),
    b"d": _filled(dict, _fill_dict),
    b"\x91": _filled(set, _fill_set),
    b"\x85": _pushed(lambda m: tuple(m.drop(1))),
    b"\x86": _pushed(lambda m: tuple(m.drop(2))),
    b"\x87": _pushed(lambda m: tuple(m.drop(3))),
    b"a": lambda m: _fill_list(m.stack[-2], m.drop(1)),
    b"e": _filling(_fill_list),
    b"s": lambda m: _fill_dict(m.stack[-3], m.drop(2)),
    b"u": _filling(_fill_dict),
    b"\x90": _filling(_fill_set),
    b"p": lambda m: m.remember(int(m.line(20))),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": _pushed(lambda m: m.memo[int(m.line(20))]),
    b"h": _pushed(lambda m: m.memo[m.number("<B")]),
    b"j": _pushed(lambda m: m.memo[m.number("<I")]),
    b"c": lambda m: m.look_up(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.look_up(*m.drop(2)),
    b"R": _Machine.call,
    b"b": _Machine.build,
}
