"""Damaged checkpoints: what disks, networks and people with an editor do to files, from a seed."""

from __future__ import annotations

import io
import itertools
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, rng: random.Random) -> bytes:
    """One to four bytes changed, half of the time in the last or first two thousand."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        near = rng.randrange(min(2000, len(content)))
        place = rng.choice((near, len(content) - 1 - near, rng.randrange(len(content)), rng.randrange(len(content))))
        changed[place] ^= rng.choice((1 << rng.randrange(8), rng.randint(1, 255)))
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.choice((rng.randrange(len(content)), len(content) - rng.randint(1, 200)))]


def duplicate(content: bytes, rng: random.Random) -> bytes:
    start, size, target = _block(content, rng)
    return content[:target] + content[start : start + size] + content[target:]


def move(content: bytes, rng: random.Random) -> bytes:
    start, size, target = _block(content, rng)
    block, rest = content[start : start + size], content[:start] + content[start + size :]
    return rest[:target] + block + rest[target:]


def exchange(content: bytes, rng: random.Random) -> bytes:
    """Two blocks of one size change places."""
    start, size, _ = _block(content, rng)
    other = rng.randrange(len(content) - size)
    low, high = min(start, other), max(start, other)
    size = min(size, high - low)
    parts = content[:low], content[low : low + size], content[low + size : high]
    return parts[0] + content[high : high + size] + parts[2] + parts[1] + content[high + size :]


def blank(content: bytes, rng: random.Random) -> bytes:
    start, size, _ = _block(content, rng)
    return content[:start] + bytes(size) + content[start + size :]


def insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.randint(1, 64)) + content[place:]


def directory(content: bytes, rng: random.Random) -> bytes:
    """Fields of a zip file's directory or its end record: drawn anew, or taken from another entry."""
    changed = bytearray(content)
    entries = [i for i in range(len(content) - 46) if content[i : i + 4] == b"PK\1\2"]
    for _ in range(rng.randint(1, 3)):
        entry, other = rng.choice(entries), rng.choice(entries)
        offset, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 8), (24, 4), (28, 2), (30, 2), (42, 4), (46, 12)))
        what = rng.randrange(5)
        if what == 0:
            changed[entry + offset : entry + offset + size] = content[other + offset : other + offset + size]
        elif what == 1:
            value = int.from_bytes(content[entry + offset : entry + offset + size], "little")
            value += rng.choice((-64, -1, 1, 64))
            changed[entry + offset : entry + offset + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        elif what == 2:
            place = len(content) - 1 - rng.randrange(98)  # the end records
            changed[place] = rng.randrange(256)
        elif what == 3:  # one entry stands for another, all but its name
            changed[entry + 4 : entry + 46] = content[other + 4 : other + 46]
        else:
            changed[entry + offset : entry + offset + size] = rng.randbytes(size)
    return bytes(changed)


def pickle_ops(content: bytes, rng: random.Random) -> bytes:
    """Opcodes of a pickle left out, doubled, exchanged, or with another argument."""
    places = [place for _, _, place in pickletools.genops(content) if place is not None] + [len(content)]
    ops = [content[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(rng.randint(1, 3)):
        i, j, what = rng.randrange(len(ops)), rng.randrange(len(ops)), rng.randrange(6)
        if what == 0:
            del ops[i]
        elif what == 1:
            ops.insert(j, ops[i])
        elif what == 2:
            ops[i], ops[j] = ops[j], ops[i]
        elif what == 3:
            ops[i] = ops[j]
        elif what == 4:
            numbers = [n for n, op in enumerate(ops) if op[:1] in b"KMJ"]
            value = rng.choice((0, 1, -1, 2, 63, 65, 255, 1 << 20, 2**31 - 1))
            ops[rng.choice(numbers)] = b"J" + struct.pack("<i", value)
        else:
            ops[i] = ops[i][:1] + rng.randbytes(len(ops[i]) - 1)
    return b"".join(ops)


def repacked(content: bytes, rng: random.Random) -> bytes:
    """A zip file whose pickle is edited and whose checksums are right all the same."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(output, "w") as new:
        for name in old.namelist():
            inner = old.read(name)
            new.writestr(name, pickle_ops(inner, rng) if name.endswith("data.pkl") else inner)
    return output.getvalue()


def legacy_ops(content: bytes, rng: random.Random) -> bytes:
    """A legacy file with its content's pickle edited."""
    start = 0
    for _ in range(3):  # a mark, a version, the system
        start += _length(content[start:])
    stop = start + _length(content[start:])
    return content[:start] + pickle_ops(content[start:stop], rng) + content[stop:]


def header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with its header edited: digits, names and brackets."""
    size = int.from_bytes(content[:8], "little")
    text = bytearray(content[8 : 8 + size])
    for _ in range(rng.randint(1, 3)):
        digits = [i for i, c in enumerate(text) if chr(c).isdigit()]
        place = rng.choice((rng.choice(digits), rng.choice(digits), rng.randrange(len(text))))
        new = bytes(rng.choice(b'0123456789{}[],:"ab') for _ in range(rng.randint(0, 2)))
        text[place : place + rng.randint(0, 2)] = new
    return len(text).to_bytes(8, "little") + bytes(text) + content[8 + size :]


ANY: tuple[Mutation, ...] = (flip, flip, cut, duplicate, move, exchange, blank, insert)
BY_CONTAINER: dict[str, tuple[Mutation, ...]] = {
    "zip": (*ANY, directory, directory, directory, repacked, repacked, repacked),
    "legacy": (*ANY, legacy_ops, legacy_ops, legacy_ops),
    "safetensors": (*ANY, header, header, header),
}


def _block(content: bytes, rng: random.Random) -> tuple[int, int, int]:
    """Start and size of a block, and a place for it."""
    size = min(rng.choice((1, 4, 16, 64, 512, 4096)), len(content) // 2)
    return rng.randrange(len(content) - size), size, rng.randrange(len(content) - size)


def _length(content: bytes) -> int:
    return max(place for _, _, place in pickletools.genops(content) if place is not None) + 1
