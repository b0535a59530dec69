"""Training and scoring of one depth head on a frozen backbone: the depth protocol once it is configured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dinobench.algorithms.depth_head import DepthBins, DepthHead
from dinobench.data.depth_maps import DepthSet
from dinobench.data.transforms import ImageTransform, for_backbone
from dinobench.dense.depth.augment import DepthView
from dinobench.dense.depth.batches import Batches, ExtractedBatches, ViewBatches
from dinobench.dense.depth.features import Reading
from dinobench.dense.depth.losses import DepthLoss
from dinobench.dense.depth.schedules import Schedule
from dinobench.dense.depth.scoring import Scorer
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.inputs import reading_of
from dinobench.metrics.depth import NAMES
from dinobench.signals import StopRequest
from dinobench.training.resume import TrainingProgress, TrainingState, asked_of_any
from dinobench.training.step_values import StepValues
from dinobench.types import Backbone, Context

#: The score by which DINOv2's evaluation keeps its best state (`save_best` of its configs).
JUDGE = NAMES.index("abs_rel")


@dataclass(frozen=True)
class ProbeConfig:
    """How a head is trained and scored. With `view` None the train features are extracted once, at `scale`.

    `train_images` is how many of the train images there are to be, spread over them, 0 for all; `clamp` as in
    `algorithms.depth_head.to_labels`; `test_every` steps the test images are scored, 0 for only after the last.
    """

    reading: Reading
    bins: DepthBins
    loss: DepthLoss
    schedule: Schedule
    view: DepthView | None
    batch: int
    weight_decay: float
    beta2: float
    clip: float
    upsample: int
    batchnorm: bool
    init_std: float | None
    crop: str
    border: bool
    clamp: str
    flip_average: bool
    align: bool
    test_every: int
    scale: float
    train_images: int
    transform: ImageTransform


@dataclass
class TestTable:
    """Scores (n, len(NAMES)) of the test images' `rows`, NaN where no pixel counts, after `step` steps."""

    step: int
    rows: torch.Tensor
    scores: torch.Tensor

    def mean(self, column: int) -> float:
        """Over the images that count."""
        return float(np.nanmean(self.scores[:, column].numpy()))


class DepthProbe:
    """One run. Everything random comes from the seed and the number of the step, so that any step can be resumed at."""

    def __init__(self, backbone: Backbone, data: DepthSet, config: ProbeConfig, ctx: Context) -> None:
        config = dataclasses.replace(config, transform=for_backbone(config.transform, backbone))
        if config.batch < ctx.processes:
            raise UserError(f"depth: a batch of {config.batch} for {ctx.processes} processes; use a larger --set batch")
        self.backbone, self.data, self.config, self.ctx = backbone, data, config, ctx
        channels = config.reading.channels(backbone, ctx)
        self.head = DepthHead(
            channels, config.bins, upsample=config.upsample, batchnorm=config.batchnorm, init_std=config.init_std,
            seed=ctx.seed,
        ).to(ctx.device)  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=config.schedule.lr, betas=(0.9, config.beta2),
            weight_decay=config.weight_decay, fused=ctx.device.type == "cuda",
        )  # fmt: skip
        self.scorer = Scorer(backbone, data.test, config.reading, config.transform, config.scale, ctx)
        self.broken: set[str] = set()  # of train images, those met before an interruption too
        self.last: TestTable | None = None
        self.best: TestTable | None = None
        self.stop = StopRequest()
        self.values, self.loss = StepValues(lag=1 if ctx.device.type == "cuda" else 0), float("nan")
        self.state = TrainingState(ctx.scratch / f"depth-{self._identity()[:16]}.pt", ctx)

    def run(self) -> tuple[TestTable, TestTable | None]:
        """Train to the last step; the scores after it, and after the step that was best on the test images if asked.

        Raises UserError when the training diverges. A signal that ends a run is heeded after the step that it comes in:
        the state is saved and Interrupted raised.
        """
        steps = self.config.schedule.steps
        first = self._resume()
        if first < steps:
            self.batches = batches = self._batches()
            with self.stop.listening():
                training = self._train(batches, first, steps)
                for _ in self.ctx.progress(training, "Training a depth head", (steps - first) * self.config.batch):
                    pass
            self.broken |= batches.broken
        self.ctx.left_out(f"{self.data.train.name}/{name}" for name in sorted(self.broken))
        if self.last is None or self.last.step != steps or self.ctx.saves:
            self._test(steps, save=True)
        assert self.last is not None
        return self.last, self.best

    def _batches(self) -> Batches:
        config, ctx = self.config, self.ctx
        if config.view is None:
            return ExtractedBatches(
                self.backbone, self.data.train, config.reading, config.transform, ctx, batch=config.batch,
                scale=config.scale, border=config.border, images=config.train_images,
            )  # fmt: skip
        return ViewBatches(
            self.backbone, self.data.train, config.reading, config.transform, ctx, batch=config.batch, view=config.view,
            images=config.train_images,
        )  # fmt: skip

    def _train(self, batches: Batches, first: int, steps: int) -> Iterator[TrainingProgress]:
        every = self.config.test_every
        for step, features, depth in batches.load(first, steps):
            if len(features):
                self.update(step, features, depth)
            done = step + 1
            tested = bool(every) and (done % every == 0 or done == steps)
            stopping = asked_of_any(self.stop, self.ctx)
            if tested or stopping or self.state.due or done == steps:
                self._look(lag=0)  # what is not finite is neither tested nor saved
                if tested:
                    self._test(done, save=False)
                self.state.save(self._state(done))
            if stopping:
                raise self.stop.interrupted()
            yield TrainingProgress(self.config.batch, f"step {done}/{steps}, loss {self.loss:.3f}{self._says()}")

    def update(self, step: int, features: torch.Tensor, depth: torch.Tensor) -> None:
        """One step of the optimizer on features (B, C, h, w) and depth (B, 1, H, W), the whole batch's."""
        size = self.config.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = size.lr
            if size.beta1 is not None:
                group["betas"] = size.beta1, self.config.beta2
        self.head.train()
        pred = self.head(features)
        if pred.shape[-2:] != depth.shape[-2:]:
            pred = F.interpolate(pred, size=depth.shape[-2:], mode="bilinear", align_corners=False)
        loss = self.config.loss(pred, depth, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.config.clip)
        self.optimizer.step()
        self.values.add(step, loss.detach()[None])
        self._look()

    def _look(self, lag: int | None = None) -> None:
        """At the losses of steps that are through. Raises UserError for one that is not finite."""
        for step, (loss,) in self.values.take(lag):
            if not np.isfinite(loss):
                rate = self.config.schedule.lr / 10
                raise UserError(f"depth: the loss is not finite at step {step + 1}; lower it, as in --set lr={rate:g}")
            self.loss = loss if np.isnan(self.loss) else 0.9 * self.loss + 0.1 * loss

    def _test(self, step: int, save: bool) -> None:
        config, convention = self.config, self.data.convention
        rows, scores = self.scorer.score(
            self.head, config.bins.low, config.bins.high, crop=config.crop, clamp=config.clamp,
            flip_average=config.flip_average, align=config.align, save=convention.scale if save else None,
        )  # fmt: skip
        self.last = TestTable(step, rows, scores)
        if config.test_every and (self.best is None or self.last.mean(JUDGE) < self.best.mean(JUDGE)):
            self.best = self.last

    def _says(self) -> str:
        return f", test RMSE {self.last.mean(0):.3f} m" if self.last else ""

    def _identity(self) -> str:
        """What decides the training: another configuration finds no state of this one."""
        info = self.backbone.info
        return digest(
            repr(self.config), self.data.fingerprint, info.weights_digest, info.arch, self.ctx.seed,
            self.ctx.skip_broken, reading_of(info),
        )  # fmt: skip

    def _state(self, steps: int) -> dict[str, Any]:
        return {
            "step": steps,
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "last": vars(self.last) if self.last else {},
            "best": vars(self.best) if self.best else {},
            "broken": sorted(self.broken | self.batches.broken),
        }

    def _resume(self) -> int:
        """Takes back the state of an interrupted run; returns the number of steps it had done."""
        state = self.state.load()
        if state is None:
            return 0
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.last, self.best = (TestTable(**state[name]) if state[name] else None for name in ("last", "best"))
        self.broken = set(state["broken"])
        return int(state["step"])
