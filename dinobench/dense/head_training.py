"""Training of a head on patch features, step by step, with validations on the way, saved so that it goes on exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from dinobench.errors import UserError
from dinobench.signals import StopRequest
from dinobench.training.randomness import own_randomness
from dinobench.training.resume import TrainingProgress, TrainingState, asked_of_any
from dinobench.training.step_values import StepValues
from dinobench.types import Context

#: AdamW's first moment, where the schedule has none of its own: that of all releases.
BETA1 = 0.9


class Batch(NamedTuple):
    """A step's patch features (B, D, h, w) float32 and the truth (B, ...) beside them: the same on every process."""

    maps: torch.Tensor
    truth: torch.Tensor


class Batches(Protocol):
    """`broken` are the ids of images that could not be read and are left out of their batches."""

    @property
    def broken(self) -> set[str]: ...

    def load(self, first: int) -> Iterator[Batch]:
        """The steps from `first` on, the same whatever `first` is."""
        ...


class StepSize(NamedTuple):
    """What one step of the optimizer is taken with; `beta1` None leaves the optimizer's own."""

    lr: float
    beta1: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How a head is trained in so many `steps` of AdamW, step i of `size(i)`.

    `back(output, truth, i)` goes back from the loss of what the head gave to its parameters and returns the loss ().
    `clip` is the largest norm of the gradient, 0 for any.
    """

    steps: int
    size: Callable[[int], StepSize]
    back: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
    weight_decay: float
    beta2: float = 0.999
    clip: float = 0.0


class HeadTraining:
    """One training. Whatever is random comes from the seed and a step's number, so that it can go on at any step.

    All processes hold the whole batch and so the same head, whose batch norm is then that over all of them. `what` is
    trained is told in messages; `path` is where the state is kept.
    """

    def __init__(self, what: str, head: nn.Module, recipe: Recipe, path: Path, ctx: Context) -> None:
        self.what, self.head, self.recipe, self.ctx = what, head.to(ctx.device), recipe, ctx
        self.optimizer = torch.optim.AdamW(
            head.parameters(), lr=recipe.size(0).lr, betas=(BETA1, recipe.beta2), weight_decay=recipe.weight_decay,
            fused=ctx.device.type == "cuda",
        )  # fmt: skip
        self.state = TrainingState(path, ctx)
        self.stop = StopRequest()
        self.values, self.loss = StepValues(lag=1 if ctx.device.type == "cuda" else 0), float("nan")
        #: What the validations gave, by the number of steps before each, and what the progress bar says of the last.
        self.validated: dict[int, dict[str, torch.Tensor]] = {}
        self.told = ""
        #: Images that could not be read, those met before an interruption too.
        self.broken: set[str] = set()

    def run(
        self, batches: Callable[[], Batches], validate: Callable[[int], dict[str, torch.Tensor]], every: int = 0
    ) -> dict[int, dict[str, torch.Tensor]]:
        """Train to the last step; `batches` are made where any are left.

        `validate(steps done)` is asked after `every` steps (0: never) and after the last one. Raises UserError when the
        loss is not finite. A signal that ends a run is heeded after the step that it comes in: the state is saved and
        Interrupted raised.
        """
        first, total = self._resume(), self.recipe.steps
        if first < total:
            source = batches()
            with self.stop.listening():
                steps = self._steps(source, first, validate, every)
                for _ in self.ctx.progress(steps, "Training the head", total - first):
                    pass
            self.broken |= source.broken
        return self.validated

    def _steps(
        self, source: Batches, first: int, validate: Callable[[int], dict[str, torch.Tensor]], every: int
    ) -> Iterator[TrainingProgress]:
        total, batches = self.recipe.steps, source.load(first)
        for step in range(first, total):
            self.values.add(step, self.step(next(batches), step)[None])
            done = step + 1
            validating = done == total or (every > 0 and done % every == 0)
            stopping = asked_of_any(self.stop, self.ctx)
            saving = validating or stopping or self.state.due
            self._look(lag=0 if saving else None)  # what is not finite is neither validated nor saved
            if validating:
                self.head.eval()
                self.validated[done] = validate(done)
            if saving:
                self.state.save(self._state(done, self.broken | source.broken))
            if stopping:
                raise self.stop.interrupted()
            yield TrainingProgress(1, f"step {done}/{total}, loss {self.loss:.3f}{self.told}")

    def _look(self, lag: int | None) -> None:
        """At the losses of steps that are through. Raises UserError for one that is not finite."""
        for step, (loss,) in self.values.take(lag):
            if not np.isfinite(loss):
                highest = max(self.recipe.size(i).lr for i in range(self.recipe.steps))
                raise UserError(
                    f"{self.what}: the loss is not finite at step {step + 1}; lower the learning rate, as in "
                    f"--set lr={highest / 10:.1g}"
                )
            self.loss = loss if np.isnan(self.loss) else 0.9 * self.loss + 0.1 * loss

    def step(self, batch: Batch, index: int) -> torch.Tensor:
        """One step of the optimizer, the `index`-th from 0; returns the loss () on the device."""
        size = self.recipe.size(index)
        for group in self.optimizer.param_groups:
            group["lr"] = size.lr
            if size.beta1 is not None:
                group["betas"] = size.beta1, self.recipe.beta2
        self.head.train()
        self.optimizer.zero_grad(set_to_none=True)
        with own_randomness(self.ctx.device, self.ctx.seed, index):
            output = self.head(batch.maps)
        loss = self.recipe.back(output, batch.truth, index)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.head.parameters(), self.recipe.clip)
        self.optimizer.step()
        return loss

    def _state(self, steps: int, broken: set[str]) -> dict[str, Any]:
        return {
            "step": steps, "head": self.head.state_dict(), "optimizer": self.optimizer.state_dict(),
            "validated": self.validated, "broken": sorted(broken),
        }  # fmt: skip

    def _resume(self) -> int:
        """Takes back the state of an interrupted run; returns the number of steps it had done."""
        state = self.state.load()
        if state is None:
            return 0
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.validated, self.broken = state["validated"], set(state.get("broken", ()))
        return int(state["step"])
