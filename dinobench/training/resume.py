"""State of a long training on disk, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from dinobench.errors import UserError
from dinobench.files import atomic_path


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and containers of them; a reader sees the old state or the new one, never a part.

    Raises UserError when the disk does not take it.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise UserError(f"{path}: cannot write the state of the training: {error}; free some space") from error


def load_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """What `save_state` wrote, or None when there is nothing or it is damaged, in which case training starts anew."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) else None
