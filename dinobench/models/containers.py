"""What a checkpoint file holds, without running code from it and without believing what it says of itself.

A pickle can call any function while it loads; torch's restricted unpickler builds only tensors, containers and numbers.
Besides those we allow `argparse.Namespace` (DINO, MAE and others keep their arguments in one) and NumPy's numbers (the
released DINO loop leaves NumPy floats in the optimizer's groups). That unpickler still trusts sizes, positions and
arguments, so the file is looked through first: its directory and checksums (`archive`), its pickle (`inert_pickle`,
`screening`), and that each tensor's bytes are there.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import mmap
import pickletools
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from dinobench.errors import UserError
from dinobench.models import archive, inert_pickle
from dinobench.models.inert_pickle import MAX_BYTES, Node, Rejected
from dinobench.models.screening import DAMAGED, Storage, refusal, screen, unknown_names

MAX_TENSORS = 50_000  # fifty times the largest vision models'
MAX_HEADER = 1 << 23  # bytes of a safetensors header with as many
_EXPECTED = "is not a checkpoint, or is truncated; expected a torch.save or safetensors file"

_MAGIC = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with git lfs pull",
    b"<!DOCTYPE": "a web page: the download failed",
    b"<html": "a web page: the download failed",
}


def read_file(path: Path, device: torch.device | str = "cpu") -> tuple[str, Any]:
    """(container, what the file holds): tensors (on `device`) and plain values only, nothing of it run.

    `container` is "zip", "legacy" or "safetensors". Zip files are mapped, not copied. Raises UserError, one line with
    the remedy, for a file that is missing, empty, truncated, damaged, foreign or unsafe.
    """
    try:
        if not path.stat().st_size:  # also what the system makes up as it is read
            raise UserError(f"{path}: is empty (0 bytes); copy or download it again")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            container = _container(data[:64])
            if container != "safetensors" and path.suffix == ".safetensors":  # torch goes by the name there
                raise Rejected("is a torch.save file by its content; rename it to .pth")
            with _no_collector():
                {"zip": _check_zip, "legacy": _check_legacy, "safetensors": _check_safetensors}[container](data)
        if container == "safetensors":
            return container, safetensors.torch.load_file(path, str(device))
        return container, _load_torch(path, container, device)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
    except Rejected as error:
        raise UserError(f"{path}: {error}") from None
    except safetensors.SafetensorError as error:
        reason = ascii(" ".join(str(error).split()))[1:200]
        raise UserError(f"{path}: is truncated or damaged ({reason}); copy or download it again") from None


def _container(head: bytes) -> str:
    """ "zip", "safetensors" or "legacy", by content. Raises Rejected for what is recognisably something else."""
    if head.startswith(b"PK\3\4"):
        return "zip"
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":  # a little-endian header length below 4 GiB, then JSON
        return "safetensors"
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise Rejected(f"is not a checkpoint (it looks like {what})")
    if not head.startswith(b"\x80"):  # the first opcode of every binary pickle
        raise Rejected("is not a checkpoint; expected a torch.save or safetensors file")
    return "legacy"


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Python's collector would go through a pickle's nodes again and again, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_zip(data: mmap.mmap) -> None:
    """Raises Rejected unless the pickle is harmless and each of its storages is a record of its size."""
    records = archive.records(data)
    content = records["data.pkl"]
    if content.size > MAX_BYTES:
        raise Rejected("has a pickle of more than 128 MiB beside its tensors; save the model's state_dict() alone")
    for key, storage in _screened(data[content.offset : content.offset + content.size]).items():
        record = records.get(f"data/{key}")
        if record is None or record.size != storage.nbytes:
            held = "none" if record is None else str(record.size)
            raise Rejected(f"a storage of {storage.nbytes} bytes has {held} in the file; copy or download it again")


def _screened(data: bytes) -> dict[str, Storage]:
    try:
        return screen(inert_pickle.run(data))
    except inert_pickle.Unknown:
        asked, _ = scan_pickle(data)
        raise Rejected(refusal(asked) if asked else _FOREIGN_PROTOCOL) from None


_FOREIGN_PROTOCOL = "is pickled in a protocol that the safe reader lacks; torch.save it again with the default protocol"


def _check_legacy(data: mmap.mmap) -> None:
    """Five pickles (a mark, a version, the system, the content, the storages' keys), then the storages: each its
    number of values in 8 bytes and the values. Raises Rejected unless they are harmless and all there."""
    head = data[:MAX_BYTES]
    try:
        built = inert_pickle.run(head)
        if built.value != torch.serialization.MAGIC_NUMBER:
            raise Rejected(_plain_pickle(head))
        version = inert_pickle.run(head, built.end)
        system = inert_pickle.run(head, version.end)
        content = inert_pickle.run(head, system.end)
        listed = inert_pickle.run(head, content.end)
    except inert_pickle.Unknown:
        raise Rejected(_plain_pickle(head)) from None
    for built in (version, system, listed):
        if screen(built):
            raise Rejected(DAMAGED)
    storages, position = screen(content), listed.end
    keys = listed.value.items if isinstance(listed.value, Node) and listed.value.kind == "list" else []
    if version.value != torch.serialization.PROTOCOL_VERSION or any(type(k) is not str for k in keys):
        raise Rejected(DAMAGED)
    if sorted(keys) != sorted(storages):  # a storage that is not listed would keep what the memory happened to hold
        raise Rejected(DAMAGED)
    for key in keys:
        size = data[position : position + 8]
        position += 8 + storages[key].nbytes
        if size != struct.pack("<q", storages[key].numel) or position > len(data):
            raise Rejected(DAMAGED)


def _plain_pickle(head: bytes) -> str:
    """Why a pickle that does not start as torch.save starts one is not read."""
    asked, whole = scan_pickle(head)
    if asked:
        return refusal(asked)
    return "is a plain pickle, not a checkpoint; load it yourself and torch.save its tensors" if whole else _EXPECTED


def _check_safetensors(data: mmap.mmap) -> None:
    """Raises Rejected for a header that is absurdly long or names a tensor twice. The library checks the rest."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise Rejected(f"has a header of {length} bytes, or is damaged; copy or download it again")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Rejected(DAMAGED) from None
    if len(header) > MAX_TENSORS:
        raise Rejected(f"holds {len(header)} tensors; save the backbone's state_dict() alone")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError
    return content


def _load_torch(path: Path, container: str, device: torch.device | str) -> Any:
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            return torch.load(path, map_location=device, weights_only=True, mmap=container == "zip" or None)
    except Exception as error:  # what looks right may still be none of torch's, which raises nearly anything
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise Rejected(refusal([match[1].rstrip(".")]) if match else DAMAGED) from None


def scan_pickle(data: bytes) -> tuple[list[str], bool]:
    """Classes and functions that the first pickle in `data` asks for beyond tensors and containers; whether it is all
    of `data`. Nothing is loaded."""
    names: list[str] = []
    strings: list[str] = []
    end: int | None = None
    with contextlib.suppress(Exception):  # a damaged pickle: what was met until there is enough
        for opcode, argument, end in itertools.islice(pickletools.genops(data), SCANNED):  # noqa: B007 - used below
            if opcode.name == "GLOBAL":
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:  # module and name are the last two strings
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    return unknown_names(names), end is not None and end + 1 == len(data)


SCANNED = 200_000  # opcodes looked through for the reason of a refusal


def _allowed() -> list[Any]:
    """Besides torch's own list: Namespace, and what a pickled NumPy number is made of (old and new names)."""
    scalar = np.float64(0).__reduce__()[0]
    numbers = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [
        argparse.Namespace,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *numbers,
    ]
