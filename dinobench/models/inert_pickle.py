"""What a checkpoint's pickle would build, found out without building anything of it.

torch's restricted unpickler calls its few functions with whatever arguments the file gives, and follows containers
however deep: `bytearray(10**12)` takes the memory, a dtype put together by hand points NumPy at foreign addresses, a
key of a hundred thousand tuples ends the interpreter. Here the same opcodes move inert nodes about; `models.screening`
reads those, and only what it knows in every argument goes on to torch.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_STEPS = 1_000_000  # opcodes; DINO's full ViT-B checkpoint has some 50,000, and torch needs a second for a million
MAX_BYTES = 1 << 27  # of a pickle; tensors' values are not in it

# Kinds of nodes that hold others
CONTAINERS = ("list", "tuple", "dict", "set")
DICTS = ("collections.OrderedDict", "collections.Counter")


class Rejected(Exception):
    """Why a file is not read: the message goes behind its name and has the remedy."""


class Unknown(Exception):
    """An opcode that torch's restricted unpickler does not have either."""


Operation = Callable[["_Machine"], Any]


@dataclass(slots=True, eq=False)
class Node:
    """Something that is no plain value.

    `kind` is one of CONTAINERS, "global" (a class or function by name), "call" (of `name` with `items`), "new" (an
    object made without its constructor) or "storage" (the persistent id in `items`). A dict's items are keys and
    values in turn; `state` is what BUILD would set. `depth` (of containers) and `values` (as a walk meets them) are
    measured by `screening`.
    """

    kind: str
    name: str = ""
    items: list[Any] = field(default_factory=list)
    state: Any = None
    depth: int = 0
    values: int = 0


@dataclass(frozen=True)
class Built:
    """`value` stood at the top when the pickle stopped, before position `end`. Torch would have built all of `nodes`,
    also those that `value` does not reach."""

    value: Any
    end: int
    nodes: list[Node]


def run(data: bytes, start: int = 0) -> Built:
    """The pickle that starts at `start`.

    Raises Unknown for an opcode outside of torch's, Rejected for one that is damaged or has no end in sight.
    """
    machine = _Machine(data, start)
    try:
        return Built(machine.run(), machine.position, machine.nodes)
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error):
        raise Rejected("is truncated or damaged; copy or download it again") from None


class _Machine:
    """torch's stack machine: a stack, the stacks below its marks, a memo."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.position = data, start
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.nodes: list[Node] = []

    def run(self) -> Any:
        data, operations = self.data, OPERATIONS
        for _ in range(MAX_STEPS):
            code = data[self.position]
            self.position += 1
            if code == STOP:
                return self.stack.pop()
            if (operation := operations.get(code)) is None:
                raise Unknown(f"opcode {code}")
            operation(self)
        raise Rejected("its pickle holds millions of values beside tensors; save the model's state_dict() alone")

    def push(self, kind: str, name: str = "", items: list[Any] | None = None) -> None:
        node = Node(kind, name, [] if items is None else items)
        self.nodes.append(node)
        self.stack.append(node)

    def take(self, n: int) -> bytes:
        """The next `n` bytes, all of them."""
        part = self.data[self.position : self.position + n]
        if len(part) != n:
            raise ValueError
        self.position += n
        return part

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.position)
        return self.take(end + 1 - self.position)[:-1].decode()

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def top(self, kind: str) -> Node:
        node = self.stack[-1]
        if not isinstance(node, Node) or node.kind != kind:
            raise ValueError
        return node

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def name(self) -> None:
        module, name = self.line(), self.line()
        module = {"__builtin__": "builtins"}.get(module, module)  # as Python 2 wrote it
        self.push("global", f"{module}.{name}")

    def pack(self, n: int) -> None:
        items = self.stack[-n:]
        if len(items) != n:
            raise ValueError
        del self.stack[-n:]
        self.push("tuple", items=items)

    def put(self, form: str) -> None:
        self.memo[self.number(form)] = self.stack[-1]

    def get(self, form: str) -> None:
        self.stack.append(self.memo[self.number(form)])

    def text(self, form: str, encoding: str = "utf-8", errors: str = "surrogatepass") -> None:
        self.stack.append(self.take(self.number(form)).decode(encoding, errors))

    def call(self, kind: str) -> None:
        """A call, or an ordered dict or counter as the dict that it is."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if getattr(arguments, "kind", "") != "tuple" or getattr(function, "kind", "") != "global":
            raise ValueError
        if function.name in DICTS:
            self.push("dict", function.name, _pairs(*arguments.items))
        else:
            self.push(kind, function.name, arguments.items)

    def build(self) -> None:
        state, node = self.stack.pop(), self.stack[-1]
        if not isinstance(node, Node) or node.kind not in ("call", "new", "dict") or node.state is not None:
            raise ValueError
        node.state = state

    def persistent(self) -> None:
        self.top("tuple")
        self.push("storage", items=self.stack.pop().items)

    def extend(self, items: list[Any]) -> None:
        self.top("list").items.extend(items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError
        self.top("dict").items.extend(items)


def _pairs(given: Node | None = None) -> list[Any]:
    """Keys and values in turn of the argument that a dict is made from: none, a dict, or pairs as Python 2 wrote."""
    if given is None or given.kind == "dict":
        return list(given.items) if given else []
    pairs = [pair.items for pair in given.items]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError
    return [item for pair in pairs for item in pair]


def _pushes(value: Any) -> Operation:
    return lambda m: m.stack.append(value)


def _pushes_new(kind: str) -> Operation:
    return lambda m: m.push(kind)


def _pushes_number(form: str) -> Operation:
    return lambda m: m.stack.append(m.number(form))


def _packs(n: int) -> Operation:
    return lambda m: m.pack(n)


STOP = pickle.STOP[0]
# The opcodes of torch's restricted unpickler (torch/_weights_only_unpickler.py), which are those of protocol 2 and less
OPERATIONS: dict[int, Operation] = {
    code[0]: operation
    for code, operation in {
        pickle.PROTO: lambda m: m.take(1),
        pickle.GLOBAL: _Machine.name,
        pickle.NEWOBJ: lambda m: m.call("new"),
        pickle.REDUCE: lambda m: m.call("call"),
        pickle.BUILD: _Machine.build,
        pickle.BINPERSID: _Machine.persistent,
        pickle.APPEND: lambda m: m.extend([m.stack.pop()]),
        pickle.APPENDS: lambda m: m.extend(m.marked()),
        pickle.SETITEM: lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
        pickle.SETITEMS: lambda m: m.set_items(m.marked()),
        pickle.MARK: _Machine.mark,
        pickle.TUPLE: lambda m: m.push("tuple", items=m.marked()),
        pickle.TUPLE1: _packs(1),
        pickle.TUPLE2: _packs(2),
        pickle.TUPLE3: _packs(3),
        pickle.EMPTY_TUPLE: _pushes_new("tuple"),
        pickle.EMPTY_LIST: _pushes_new("list"),
        pickle.EMPTY_DICT: _pushes_new("dict"),
        pickle.EMPTY_SET: _pushes_new("set"),
        pickle.NONE: _pushes(None),
        pickle.NEWFALSE: _pushes(False),
        pickle.NEWTRUE: _pushes(True),
        pickle.BININT: _pushes_number("<i"),
        pickle.BININT1: _pushes_number("<B"),
        pickle.BININT2: _pushes_number("<H"),
        pickle.BINFLOAT: _pushes_number(">d"),
        pickle.LONG1: lambda m: m.stack.append(pickle.decode_long(m.take(m.number("<B")))),
        pickle.BINUNICODE: lambda m: m.text("<I"),
        pickle.SHORT_BINSTRING: lambda m: m.text("<B", errors="strict"),
        pickle.BINPUT: lambda m: m.put("<B"),
        pickle.LONG_BINPUT: lambda m: m.put("<I"),
        pickle.BINGET: lambda m: m.get("<B"),
        pickle.LONG_BINGET: lambda m: m.get("<I"),
    }.items()
}
