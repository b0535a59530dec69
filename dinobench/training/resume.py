"""State of a long training on disk, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dinobench.errors import UserError
from dinobench.files import atomic_path
from dinobench.models.containers import read_file
from dinobench.signals import StopRequest
from dinobench.types import Context

#: Seconds of work that an interruption may cost.
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingProgress:
    """A step done, as a progress bar counts and shows it: `n` images, and what `says` how the training goes."""

    n: int
    says: str


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
        _, state = read_file(path, device)
    except UserError:
        return None
    return state if isinstance(state, dict) else None


def asked_of_any(stop: StopRequest, ctx: Context) -> bool:
    """Whether a signal came, to any process. All of them ask at the same step, and so end after the same one."""
    if ctx.processes == 1:
        return stop.asked
    return bool(ctx.gather(torch.tensor([stop.asked])).any())


class TrainingState:
    """The state of a training in a file, written at most every `SAVE_SECONDS` unless asked otherwise."""

    def __init__(self, path: Path, ctx: Context) -> None:
        self.path, self.ctx = path, ctx
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether so much has been done since the last state that another is worth writing."""
        return self.ctx.rank == 0 and time.monotonic() - self._saved >= SAVE_SECONDS

    def save(self, state: dict[str, Any]) -> None:
        """Written by the first process; the others hold the same."""
        if self.ctx.rank == 0:
            save_state(self.path, state)
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved, or None where nothing was, or where the processes' states are of different steps."""
        state = load_state(self.path)
        if self.ctx.processes > 1:
            steps = self.ctx.gather(torch.tensor([state["step"] if state else 0]))
            if steps.min() != steps.max():
                return None
        return state
