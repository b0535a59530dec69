"""Learning rate and first moment of AdamW over the steps of a depth head's training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dinobench.dense.head_training import StepSize

Kind = Literal["dinov2", "dinov3", "cosine"]
#: Lowest and highest first moment of a cycle: torch's OneCycleLR and mmcv's OneCycle, arXiv 1708.07120.
LEAST_MOMENT, MOST_MOMENT = 0.85, 0.95
#: DINOv2's: the warm-up's start as a share of the rate there, the end's share of the rate, and the share of the steps
#: at which the first moment is lowest (mmcv's default). From copies of its NYU config: Jiawei-Yang/Denoising-ViT.
WARMUP_RATIO, END_RATIO, LOWEST_AT = 1e-3, 1e-8, 0.3
#: DINOv3's: the rate's divisors at the start and at the end, the latter on top of the former's default of 25.
START_DIVISOR, END_DIVISOR = 1000.0, 25 * 1000.0


@dataclass(frozen=True)
class Schedule:
    """`kind` "dinov2": mmcv's cosine under a linear warm-up, the first moment in one cycle of its own.

    "dinov3": WarmupOneCycle of facebookresearch/dinov3 `eval/segmentation/schedulers.py` with `use_beta1`, whose first
    moment is 0 in the whole warm-up and whose cosine runs over all steps, the warm-up's too. "cosine": linear warm-up
    from 0, then half a cosine to 0. `steps` in all, `warmup` of them rising.
    """

    kind: Kind
    lr: float
    steps: int
    warmup: int

    def __call__(self, step: int) -> StepSize:
        """For step `step`, from 0.

        >>> [round(Schedule("cosine", 1.0, 4, 2)(i).lr, 3) for i in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        """
        if self.kind == "dinov2":
            return self._dinov2(step)
        if self.kind == "dinov3":
            return self._dinov3(step)
        if step < self.warmup:
            return StepSize(self.lr * (step + 1) / self.warmup, None)
        return StepSize(_anneal(self.lr, 0, (step - self.warmup) / max(self.steps - self.warmup, 1)), None)

    def _dinov2(self, step: int) -> StepSize:
        lr = _anneal(self.lr, self.lr * END_RATIO, step / self.steps)
        if step < self.warmup:
            lr *= 1 - (1 - step / self.warmup) * (1 - WARMUP_RATIO)
        lowest, last = LOWEST_AT * self.steps - 1, self.steps - 1
        if step <= lowest:
            return StepSize(lr, _anneal(MOST_MOMENT, LEAST_MOMENT, step / lowest if lowest > 0 else 0.0))
        return StepSize(lr, _anneal(LEAST_MOMENT, MOST_MOMENT, (step - max(lowest, 0)) / max(last - lowest, 1)))

    def _dinov3(self, step: int) -> StepSize:
        if step < self.warmup:
            falling = _anneal(self.lr, 0, step / self.steps)
            return StepSize(self.lr / START_DIVISOR + falling * step / self.warmup, 0.0)
        lr = _anneal(self.lr, self.lr / END_DIVISOR, (step + 1) / self.steps)
        return StepSize(lr, _anneal(LEAST_MOMENT, MOST_MOMENT, (step - self.warmup) / (self.steps - self.warmup)))


def _anneal(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
