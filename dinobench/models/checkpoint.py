"""Reading checkpoint files without running code from them, and writing ours atomically.

A pickle can call any function while it loads; torch's restricted unpickler builds only tensors, containers and numbers.
Besides those we allow `argparse.Namespace` (DINO, MAE and others keep their arguments in one) and NumPy's numbers (the
released DINO loop leaves NumPy floats in the optimizer's groups).
"""

from __future__ import annotations

import argparse
import contextlib
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from dinobench.errors import UserError
from dinobench.files import atomic_path, user_path
from dinobench.hashing import sha256_file

# Training state that holds tensors but never a backbone.
SKIPPED = frozenset(
    ("optimizer", "optimizers", "optimizer_states", "lr_schedulers", "scheduler", "scaler", "fp16_scaler")
)
SKIPPED |= {"loss_scaler", "amp", "loops", "callbacks", "dino_loss", "ibot_loss", "criterion", "rng_state"}
# parts of names that torch.compile, FSDP and Lightning put in
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(_orig_mod|_fsdp_wrapped_module|_forward_module)\.")
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")  # what Hugging Face puts into a model's folder

HARMLESS = (
    r"torch\._utils\.|torch\.\w+$|collections\.OrderedDict$|argparse\.Namespace$|_codecs\.encode$|"
    r"numpy\.(_?core\.multiarray\.scalar|dtype|dtypes\.\w+)$"
)

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


@dataclass(frozen=True)
class RawCheckpoint:
    """A file as read: tensors by their full dotted name, and the plain values that stood beside them."""

    path: Path
    sha256: str
    container: str  # "zip", "legacy" or "safetensors"
    tensors: dict[str, torch.Tensor] = field(repr=False)
    meta: dict[str, Any] = field(repr=False)


def read_checkpoint(path: str | Path) -> RawCheckpoint:
    """Read a torch.save file (zip or legacy), a safetensors file, or a Hugging Face model folder.

    Raises UserError, one line with the remedy, for a missing, empty, truncated or foreign file, and for a pickle that
    asks for anything but tensors, containers, numbers and argparse.Namespace.
    """
    path = _file(user_path(path))
    container, value = read_file(path)
    tensors = dict(flatten(value)) if isinstance(value, Mapping) else {}
    if not tensors:
        kind = type(value).__name__
        raise UserError(f"{path}: holds no named tensors (a {kind}); save a model's state_dict() instead")
    return RawCheckpoint(path, sha256_file(path), container, tensors, _meta(value))


def read_file(path: Path) -> tuple[str, Any]:
    """(container, what the file holds): tensors and plain values only, nothing of it run.

    Raises UserError, one line with the remedy, for a file that is missing, empty, truncated, foreign or unsafe.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not head:
        raise UserError(f"{path}: is empty (0 bytes); copy or download it again")
    container = _container(path, head)
    return container, _load_safetensors(path) if container == "safetensors" else _load_torch(path, container)


def flatten(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Nested dicts of tensors -> (dotted name, tensor), leaving out training state and the marks of wrappers."""
    for key, item in value.items():
        if not prefix and key in SKIPPED:
            continue
        if isinstance(item, torch.Tensor):
            yield WRAPPERS.sub("", f"{prefix}{key}"), item
        elif isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{key}.")


def non_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors holding NaN or infinity."""
    return [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def write_checkpoint(obj: Any, path: str | Path) -> None:
    """torch.save, whole or not at all: readers see the old file or the new one, also after a power cut."""
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(obj, file)


def _file(path: Path) -> Path:
    """The file itself, or the weights in a Hugging Face model folder."""
    if path.is_dir():
        for name in FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: is a folder; give the checkpoint file in it")
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path (a timm model is written timm:NAME)")
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file")
    return path


def _container(path: Path, head: bytes) -> str:
    """ "zip", "safetensors" or "legacy", by content. Raises UserError for what is recognisably something else."""
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: is truncated (its end is missing); copy or download it again")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(n.endswith("/constants.pkl") for n in names):
            raise UserError(
                f"{path}: is a TorchScript archive, which carries code; save the model's state_dict() instead"
            )
        if not any(n.endswith("data.pkl") for n in names):
            raise UserError(f"{path}: is a zip archive but not a checkpoint; give the file written by torch.save")
        return "zip"
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":  # a little-endian header length below 4 GiB, then JSON
        return "safetensors"
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{path}: is not a checkpoint (it looks like {what})")
    if not head.startswith(b"\x80"):  # the first opcode of every binary pickle
        raise UserError(f"{path}: is not a checkpoint; expected a torch.save or safetensors file")
    return "legacy"


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: is truncated or damaged ({error}); copy or download it again") from None


def _load_torch(path: Path, container: str) -> Any:
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True, mmap=container == "zip" or None)
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise UserError(f"{path}: {_why(str(error), path, container)}") from None


def _why(text: str, path: Path, container: str) -> str:
    """The reason of a failed torch.load and its remedy, from torch's own message and a look at the pickle."""
    asked, whole = scan_pickle(_pickle_bytes(path, container))
    if match := re.search(r"GLOBAL ([\w.]+)", text):
        asked = [match[1].rstrip(".")]
    if asked:
        return (
            f"refused: its pickle asks for {', '.join(asked[:3])}, and code in a checkpoint is never run; "
            "save tensors only, as torch.save(model.state_dict(), path)"
        )
    if container == "legacy" and whole:
        return "is a plain pickle, not a checkpoint; load it yourself and torch.save its tensors"
    if container == "zip" and "Unsupported operand" in text:
        return "is pickled in a protocol that the safe reader lacks; torch.save it again with the default protocol"
    if container == "zip":
        return "is truncated or damaged; copy or download it again"
    return "is not a checkpoint, or is truncated; expected a torch.save or safetensors file"


def _pickle_bytes(path: Path, container: str) -> bytes:
    try:
        if container != "zip":
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    except (OSError, StopIteration, zipfile.BadZipFile):
        return b""


def scan_pickle(data: bytes) -> tuple[list[str], bool]:
    """Classes and functions that the first pickle in `data` asks for beyond tensors and containers; whether it is all
    of `data`. Nothing is loaded."""
    globals_: dict[str, None] = {}
    strings: list[str] = []
    end: int | None = None
    with contextlib.suppress(Exception):  # a damaged pickle: what was met until there is enough
        for opcode, argument, end in pickletools.genops(data):  # noqa: B007 - the last position is wanted below
            if opcode.name == "GLOBAL":
                globals_[str(argument).replace(" ", ".")] = None
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:  # module and name are the last two strings
                globals_[".".join(strings[-2:])] = None
            elif isinstance(argument, str):
                strings.append(argument)
    return [n for n in globals_ if not re.match(HARMLESS, n)], end is not None and end + 1 == len(data)


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


def _meta(value: Mapping[Any, Any]) -> dict[str, Any]:
    """What stands beside the tensors at the top: plain values as they are, namespaces and dicts of values as dicts."""
    meta: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, argparse.Namespace):
            meta[str(key)] = dict(vars(item))
        elif not isinstance(item, torch.Tensor):
            meta[str(key)] = item if isinstance(item, (str, int, float, Mapping, np.number)) else None
    return meta
