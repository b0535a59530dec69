"""Checkpoints as their tensors by name, whatever file or files hold them; and writing ours atomically."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinobench.errors import UserError
from dinobench.files import atomic_path, user_path
from dinobench.hashing import sha256_file
from dinobench.models import sharded
from dinobench.models.containers import MAX_TENSORS, read_file
from dinobench.models.sources.files import is_index, weights_file

# Training state that holds tensors but never a backbone.
SKIPPED = frozenset(
    ("optimizer", "optimizers", "optimizer_states", "lr_schedulers", "scheduler", "scaler", "fp16_scaler")
)
SKIPPED |= {"loss_scaler", "amp", "loops", "callbacks", "dino_loss", "ibot_loss", "criterion", "rng_state"}
# parts of names that torch.compile, FSDP and Lightning put in
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(_orig_mod|_fsdp_wrapped_module|_forward_module)\.")
MAX_NAME = 1000  # characters


@dataclass(frozen=True)
class RawCheckpoint:
    """A file as read: tensors by their full dotted name, and the plain values that stood beside them.

    `sha256` is the file's; of a sharded save that of its list of files, see `sharded.read`.
    """

    path: Path
    sha256: str
    container: str  # "zip", "legacy" or "safetensors"
    tensors: dict[str, torch.Tensor] = field(repr=False)
    meta: dict[str, Any] = field(repr=False)


def read_checkpoint(path: str | Path) -> RawCheckpoint:
    """Read a torch.save or safetensors file, a Hugging Face model folder, or a sharded save by its index.

    Raises UserError, one line with the remedy, for a missing, empty, truncated or foreign file, for a part of a
    checkpoint, and for a pickle that asks for anything but tensors, containers, numbers and argparse.Namespace.
    """
    path = weights_file(user_path(path))
    if is_index(path):
        container, value, sha256 = sharded.read(path)
    else:
        container, value = read_file(path)
        sha256 = sha256_file(path)
    tensors = _named(value, path) if isinstance(value, Mapping) else {}
    if not tensors:
        kind = type(value).__name__
        raise UserError(f"{path}: holds no named tensors (a {kind}); save a model's state_dict() instead")
    return RawCheckpoint(path, sha256, container, tensors, _meta(value))


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


def _named(value: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """All tensors by name. Raises UserError for names that are taken twice, endless or not printable, or too many."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in flatten(value):
        if len(name) > MAX_NAME or not name.isprintable():
            raise UserError(f"{path}: a tensor is called {ascii(name)[:60]}; save it under a name of printable letters")
        if not _same(tensors.setdefault(name, tensor), tensor):
            raise UserError(f"{path}: holds two different tensors of the name {name}; save one of them")
        if len(tensors) > MAX_TENSORS:
            raise UserError(f"{path}: holds more than {MAX_TENSORS} tensors; save the backbone's state_dict() alone")
    return tensors


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    alike = one.dtype == other.dtype and one.shape == other.shape
    return one is other or (alike and torch.equal(_bytes(one), _bytes(other)))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _meta(value: Mapping[Any, Any]) -> dict[str, Any]:
    """What stands beside the tensors at the top: plain values as they are, namespaces and dicts of values as dicts."""
    meta: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, argparse.Namespace):
            meta[str(key)] = dict(vars(item))
        elif not isinstance(item, torch.Tensor):
            plain = isinstance(item, (str, int, float, list, tuple, Mapping, np.number))
            meta[str(key)] = item if plain else None
    return meta
