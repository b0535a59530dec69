"""Damaged and hostile files made from sound ones, the same for the same seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

#: What may stand where something else is expected.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, -(10**400), 0.5, -0.0, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "x", "../x", "..", "/etc/passwd", "a/b", "a\\b", "a\nb", "\0",
    "\x1b[2J\x1b]0;x\x07", "::error::x", "=1+1", "</script><script>alert(1)</script>", "{{7*7}}", "\u202eabc", "\ud83d",
    "é" * 300, "x" * 100_000, "%", "nan", "1e999", [], [[]], {}, [None], {"": None}, {"a": {"b": []}}, ["x"] * 1000,
)  # fmt: skip
#: Text that is no value of Python's: too deep for its parser, or repeated keys.
RAW = (
    "[" * 500 + "]" * 500,
    "[" * 100_000,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"a": 1, "a": 2}',
    "1" * 5000,
    "-",
    "1e",
    "",
)


def bytes_mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with flipped, lost, repeated or foreign bytes."""
    out = bytearray(data)
    kind = rng.randrange(6)
    at = rng.randrange(len(out))
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del out[at:]
    elif kind == 2:
        del out[at : at + rng.choice((1, 4, 100))]
    elif kind == 3:
        out[at:at] = out[at : at + rng.choice((1, 4, 100))]
    elif kind == 4:
        out[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" * 8, rng.randbytes(8)))
    else:
        out[at] = rng.randrange(256)
    return bytes(out)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value, itself left out."""
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in steps:
        yield (*path, step)
        yield from places(value, (*path, step))


def json_mutated(tree: Any, rng: random.Random) -> bytes:
    """The JSON text of a value with some of its parts of other kinds, gone, renamed or no JSON; or with odd bytes."""
    kind = rng.randrange(10)
    if kind == 0:
        return bytes_mutated(json.dumps(tree).encode(), rng)
    changed = copy.deepcopy(tree)
    raw = None
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        path = rng.choice(list(places(changed)))
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        if kind == 1:
            del holder[path[-1]]
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice([x for x in ODD if isinstance(x, str)])] = holder.pop(path[-1])
        elif kind == 3:
            raw = rng.choice(RAW)
            holder[path[-1]] = "RAW"
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(changed)
    return (text if raw is None else text.replace('"RAW"', raw)).encode()
