"""Damaged and hostile variants of a sound input, the same for a seed."""

from __future__ import annotations

import copy
import random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**32, 2**63, -(2**64), 10**30, 10**400, 0.5, -0.0, 1e300, -1e300, 5e-324,
    float("nan"), float("inf"), "", "1", "-1", "x", "é", "\x00", "\ud800", "a\nb", "../..", "/", "o" * 40, "0" * 40,
    [], {}, [[]], [[[]]], [0], [None], ["x"], {"x": 1}, [[0, 0, 1, 1]], [[1e9] * 6], [[0, 0, 9, 0, 9, 9]], [10**9] * 4,
)  # fmt: skip


def mutated(value: Any, rng: random.Random, times: int) -> Any:
    """A copy of plain data with `times` places replaced by something odd, taken out, doubled or exchanged."""
    root = [copy.deepcopy(value)]
    for _ in range(times):
        nodes: list[tuple[Any, Any]] = []
        pending: list[Any] = [root]
        while pending:
            node = pending.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node))
            nodes += [(node, key) for key in keys]
            pending += [node[key] for key in keys if isinstance(node[key], dict | list)]
        node, key = rng.choice(nodes)
        change = rng.choice(("replace", "replace", "remove", "double", "exchange", "nudge"))
        if change == "remove" and node is not root:
            del node[key]
        elif change == "double" and isinstance(node, list) and node is not root:
            node.append(copy.deepcopy(node[key]))
        elif change == "exchange":
            other, place = rng.choice(nodes)
            node[key] = copy.deepcopy(other[place])
        elif change == "nudge" and isinstance(node[key], int | float) and abs(node[key]) < 1e200:
            node[key] = rng.choice((str(node[key]), node[key] + 1, -node[key], node[key] * 1e3, float(node[key])))
        else:
            node[key] = copy.deepcopy(rng.choice(ODD))
    return root[0]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes cut short, with some flipped, taken out, doubled or replaced."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not data:
            break
        place = rng.randrange(len(data))
        end = place + rng.randrange(1, 9)
        change = rng.choice(("flip", "flip", "set", "cut", "drop", "double", "ones"))
        if change == "flip":
            data[place] ^= 1 << rng.randrange(8)
        elif change == "set":
            data[place] = rng.randrange(256)
        elif change == "cut" and rng.random() < 0.3:
            del data[place:]
        elif change == "drop":
            del data[place:end]
        elif change == "double":
            data[place:place] = data[place:end]
        elif change == "ones":
            data[place:end] = b"\xff" * (end - place)
    return bytes(data)
