"""Sharded saves: tensors in several files, and an index that says which tensor lies in which.

Hugging Face writes `model-00001-of-00002.safetensors` (or `pytorch_model-...bin`) with `model.safetensors.index.json`,
whose `weight_map` maps each tensor's name to its file. All parts are read through the index, and together they must
hold just the tensors that it lists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dinobench.errors import UserError
from dinobench.hashing import sha256_file
from dinobench.models.containers import read_file

MAX_INDEX = 1 << 24  # bytes; some 100,000 tensors
MAX_PARTS = 1000


def parts(index: Path) -> list[str]:
    """The names of the files beside an index that hold its tensors. Raises UserError for JSON that is no index."""
    return sorted(set(_weight_map(index).values()))


def read(index: Path) -> tuple[str, dict[str, torch.Tensor], str]:
    """(container of the parts, all tensors by name, SHA-256) of a sharded save.

    The SHA-256 is that of the list of its files' own, a line "<sha256>  <name>" for the index and each part in the
    order of their names: `LC_ALL=C sha256sum model* | sha256sum` where nothing else is called so.
    Raises UserError for an index that is none, and where a part is missing or holds other tensors than listed.
    """
    places = _weight_map(index)
    names = sorted(set(places.values()))
    tensors: dict[str, torch.Tensor] = {}
    container = ""
    for part in names:
        if not index.with_name(part).is_file():
            raise UserError(f"{index}: its part {part} is not beside it; copy or download all {len(names)} parts")
        container, value = read_file(index.with_name(part))
        held = value if isinstance(value, Mapping) else {}
        listed = {name for name, place in places.items() if place == part}
        if differing := listed ^ {n for n in held if isinstance(held[n], torch.Tensor)}:
            some = ascii(min(map(str, differing)))[:100]
            raise UserError(
                f"{index}: it and its part {part} do not agree on {len(differing)} tensors ({some}); "
                "copy or download all of them again"
            )
        tensors |= {str(name): held[name] for name in listed}
    lines = [f"{sha256_file(index.with_name(name))}  {name}\n" for name in sorted({index.name, *names})]
    return container, tensors, hashlib.sha256("".join(lines).encode()).hexdigest()


def _weight_map(index: Path) -> dict[str, str]:
    """Tensors' names and their files'. Raises UserError for JSON that is no index."""
    try:
        if not 0 < index.stat().st_size <= MAX_INDEX:
            raise ValueError
        content: Any = json.loads(index.read_bytes())
        places = content["weight_map"]
        if not places or not all(isinstance(p, str) and PART_NAME.fullmatch(p) for p in places.values()):
            raise ValueError
    except OSError as error:
        raise UserError(f"{index}: cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{index}: is not a checkpoint, nor the index of a sharded one; give the file with the weights"
        ) from None
    if len(set(places.values())) > MAX_PARTS:
        raise UserError(f"{index}: lists more than {MAX_PARTS} parts; save the model's state_dict() in one file")
    return dict(places)


PART_NAME = re.compile(r"[\w-][\w.-]{0,200}")  # a file beside the index, never a path to elsewhere
