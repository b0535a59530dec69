"""Pickles written opcode by opcode, as no program would, and zip files around them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

START = b"\x80\x02"


def name(full: str) -> bytes:
    """A class or function by name."""
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def call(function: str, *arguments: bytes) -> bytes:
    return name(function) + b"(" + b"".join(arguments) + b"tR"


def tensor(
    kind: str = "FloatStorage",
    key: str = "0",
    numel: int = 4,
    offset: int = 0,
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] | None = None,
    view: bool = False,
) -> bytes:
    """A tensor as torch.save writes it; `view` adds the empty field of legacy files."""
    storage = text("storage") + name(f"torch.{kind}") + text(key) + text("cpu") + number(numel) + b"N" * view
    strides = numbers((1,) * len(size) if stride is None else stride)
    hooks = name("collections.OrderedDict") + b")R"
    inner = b"(" + storage + b"tQ", number(offset), numbers(size), strides, b"\x89", hooks
    return call("torch._utils._rebuild_tensor_v2", *inner)


def mapping(**items: bytes) -> bytes:
    """A whole pickle of a dict."""
    return START + b"}" + b"".join(text(key) + value + b"s" for key, value in items.items()) + b"."


def archive(pickled: bytes, records: Mapping[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file as torch.save lays it out, with `records` (data/0 of 16 zero bytes unless given)."""
    content = {"data.pkl": pickled, "byteorder": b"little", **({"data/0": bytes(16)} if records is None else records)}
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", compression) as file:
        for record, data in (content | {"version": b"3\n"}).items():
            file.writestr(f"x/{record}", data)
    return output.getvalue()
