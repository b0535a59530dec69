"""Training and scoring of one depth head on a frozen backbone: the depth protocol once it is configured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from dinobench.algorithms.depth_head import DepthBins, DepthHead
from dinobench.data.depth_maps import DepthSet
from dinobench.data.transforms import ImageTransform, for_backbone
from dinobench.dense.depth.augment import DepthView
from dinobench.dense.depth.batches import ExtractedBatches, spread, view_batches
from dinobench.dense.depth.losses import DepthLoss
from dinobench.dense.depth.schedules import Schedule
from dinobench.dense.depth.scoring import Scorer
from dinobench.dense.head_training import Batches, HeadTraining, Recipe
from dinobench.dense.reading import Blocks, MapReader
from dinobench.hashing import digest
from dinobench.inputs import reading_of
from dinobench.metrics.depth import NAMES
from dinobench.training.sampler import Order
from dinobench.types import Backbone, Context

#: The score by which DINOv2's evaluation keeps its best state (`save_best` of its configs).
JUDGE = NAMES.index("abs_rel")
#: Pixels of an image that every architecture has a map of.
LEAST_SIDE = 64


@dataclass(frozen=True)
class ProbeConfig:
    """How a head is trained and scored. With `view` None the train features are extracted once, at `scale`.

    `train_images` is how many of the train images there are to be, spread over them, 0 for all; `clamp` as in
    `algorithms.depth_head.to_labels`; `test_every` steps the test images are scored, 0 for only after the last.
    """

    blocks: Blocks
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
        """Over the images that count; NaN without any."""
        values = self.scores[:, column].numpy()
        return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


class DepthProbe:
    """One head: how it is trained, scored and told apart from others."""

    def __init__(self, backbone: Backbone, data: DepthSet, config: ProbeConfig, ctx: Context) -> None:
        config = dataclasses.replace(config, transform=for_backbone(config.transform, backbone))
        self.data, self.config, self.ctx = data, config, ctx
        self.maps = MapReader(backbone, config.blocks, "centred")
        self.head = DepthHead(
            self.maps.shape(LEAST_SIDE, ctx)[0], config.bins, upsample=config.upsample, batchnorm=config.batchnorm,
            init_std=config.init_std, seed=ctx.seed,
        )  # fmt: skip
        recipe = Recipe(
            config.schedule.steps, config.schedule, self._back, config.weight_decay, config.beta2, config.clip
        )
        path = ctx.scratch / f"depth-{self._identity()[:16]}.pt"
        self.training = HeadTraining("depth", self.head, recipe, path, ctx)
        self.scorer = Scorer(self.maps, data.test, config.transform, config.scale, ctx)

    def run(self) -> tuple[TestTable, TestTable | None]:
        """Train to the last step; the scores after it, and after the step that was best on the test images if asked.

        Raises as `HeadTraining.run` does, and for images that cannot be read unless they may be left out.
        """
        validated = self.training.run(self._batches, self.validate, self.config.test_every)
        self.ctx.left_out(f"{self.data.train.name}/{name}" for name in sorted(self.training.broken))
        tables = [TestTable(step, **kept) for step, kept in validated.items()]
        best = min(tables, key=lambda table: table.mean(JUDGE)) if self.config.test_every else None
        return tables[-1], best

    def _batches(self) -> Batches:
        config, ctx, split = self.config, self.ctx, self.data.train
        rows, steps = spread(len(split), config.train_images), config.schedule.steps
        if config.view is not None:
            order = Order(len(rows), config.batch, ctx.seed, steps)
            return view_batches(split, config.view, config.transform, self.maps, order, rows, ctx)
        return ExtractedBatches(
            split, self.maps, config.transform, rows, ctx, batch=config.batch, steps=steps, scale=config.scale,
            border=config.border,
        )  # fmt: skip

    def _back(self, pred: torch.Tensor, depth: torch.Tensor, step: int) -> torch.Tensor:
        """From the loss of predicted and true depth (B, 1, H, W), the former at any size."""
        if pred.shape[-2:] != depth.shape[-2:]:
            pred = F.interpolate(pred, size=depth.shape[-2:], mode="bilinear", align_corners=False)
        loss = self.config.loss(pred, depth, step)
        loss.backward()
        return loss.detach()

    def validate(self, step: int) -> dict[str, torch.Tensor]:
        """Score the test images, whose depth is saved after the last step: the fields of a `TestTable`."""
        config, last = self.config, step == self.config.schedule.steps
        rows, scores = self.scorer.score(
            self.head, config.bins.low, config.bins.high, crop=config.crop, clamp=config.clamp,
            flip_average=config.flip_average, align=config.align, save=self.data.convention.scale if last else None,
        )  # fmt: skip
        self.training.told = f", test RMSE {TestTable(step, rows, scores).mean(0):.3f} m"
        return {"rows": rows, "scores": scores}

    def _identity(self) -> str:
        """What decides the training: another configuration finds no state of this one."""
        info = self.maps.backbone.info
        return digest(
            repr(self.config), self.data.fingerprint, info.weights_digest, info.arch, self.ctx.seed,
            self.ctx.skip_broken, reading_of(info),
        )  # fmt: skip
