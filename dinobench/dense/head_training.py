"""Training of a head on patch features, step by step, with validations on the way, saved so that it goes on exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dinobench.dense.head import backward
from dinobench.errors import UserError
from dinobench.signals import StopRequest
from dinobench.training.randomness import own_randomness
from dinobench.training.resume import TrainingProgress, TrainingState, asked_of_any
from dinobench.training.step_values import StepValues
from dinobench.types import Context

#: Of both releases.
BETAS = (0.9, 0.999)


class Batch(NamedTuple):
    """A step's patch features (B, D, h, w) float32 and labels (B, H, W) uint8: the same on every process."""

    maps: torch.Tensor
    labels: torch.Tensor


class HeadTraining:
    """AdamW on a head's loss (`dinobench.dense.head.pixel_loss`).

    `rates` (steps,) is each step's learning rate. All processes hold the whole batch and so the same head, whose batch
    norm is then that over all of them. `path` is where the state is kept.
    """

    def __init__(self, head: nn.Module, rates: np.ndarray, weight_decay: float, path: Path, ctx: Context) -> None:
        self.head, self.rates, self.ctx = head.to(ctx.device), rates, ctx
        self.optimizer = torch.optim.AdamW(
            head.parameters(), lr=float(rates[0]), betas=BETAS, weight_decay=weight_decay
        )
        self.state = TrainingState(path, ctx)
        self.stop = StopRequest()
        self.values = StepValues(lag=1 if ctx.device.type == "cuda" else 0)
        #: What the validations gave, by the number of steps before each.
        self.validated: dict[int, dict[str, torch.Tensor]] = {}

    def run(
        self,
        batches: Callable[[int], Iterator[Batch]],
        validate: Callable[[int], dict[str, torch.Tensor]],
        every: int = 0,
    ) -> dict[int, dict[str, torch.Tensor]]:
        """Train to the last step; `batches(first)` are those from step `first` on.

        `validate(steps done)` is asked after `every` steps (0: never) and after the last one. Raises UserError when the
        loss is not finite. A signal that ends a run is heeded after the step that it comes in: the state is saved and
        Interrupted raised.
        """
        first, total = self._resume(), len(self.rates)
        with self.stop.listening():
            steps = self._steps(batches(first), first, validate, every)
            for _ in self.ctx.progress(steps, "Training the head", total - first):
                pass
        return self.validated

    def _steps(
        self,
        batches: Iterator[Batch],
        first: int,
        validate: Callable[[int], dict[str, torch.Tensor]],
        every: int,
    ) -> Iterator[TrainingProgress]:
        loss, total = 0.0, len(self.rates)
        for step in range(first, total):
            self.values.add(step, self.step(next(batches), step)[None])
            validating = step + 1 == total or (every > 0 and (step + 1) % every == 0)
            stopping = asked_of_any(self.stop, self.ctx)
            for index, (loss,) in self.values.take(0 if validating or stopping else None):
                if not np.isfinite(loss):
                    raise UserError(
                        f"segmentation: the loss is not finite at step {index + 1}; lower the learning rate, as in "
                        f"--set lr={float(self.rates.max()) / 10:.1g}"
                    )
            if validating:
                self.head.eval()
                self.validated[step + 1] = validate(step + 1)
            if validating or stopping or self.state.due:
                self.state.save(self._state(step + 1))
            if stopping:
                raise self.stop.interrupted()
            yield TrainingProgress(1, f"loss {loss:.3f}")

    def step(self, batch: Batch, index: int) -> torch.Tensor:
        """One step of the optimizer, the `index`-th from 0; returns the loss () on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.rates[index])
        self.head.train()
        self.optimizer.zero_grad(set_to_none=True)
        with own_randomness(self.ctx.device, self.ctx.seed, index):
            scores = self.head(batch.maps)
        loss = backward(scores, batch.labels)
        self.optimizer.step()
        return loss

    def _state(self, steps: int) -> dict[str, Any]:
        return {
            "step": steps, "head": self.head.state_dict(), "optimizer": self.optimizer.state_dict(),
            "validated": self.validated,
        }  # fmt: skip

    def _resume(self) -> int:
        """Takes back the state of an interrupted run; returns the number of steps it had done."""
        state = self.state.load()
        if state is None:
            return 0
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.validated = state["validated"]
        return int(state["step"])
