"""Losses of depth heads on predictions and truths (B, 1, H, W) in metres, 0 where the truth is unknown.

None waits for the device: masks are factors, never indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

#: Added before every logarithm, and the weight of the mean's square: facebookresearch/dinov2, dinov3, after AdaBins
#: (arXiv 2011.14141, equation 4), whose own form has neither the added mean nor this sum.
EPS, MEAN_WEIGHT = 1e-3, 0.15
#: Steps between the pixels compared at the four scales of the gradient losses; the first takes every pixel.
SCALES = (1, 2, 4, 6)

Axes = Literal["pixels", "batch"]


def sig_loss(pred: torch.Tensor, gt: torch.Tensor, *, variance: bool = True) -> torch.Tensor:
    """SigLoss: sqrt(var(g) + .15 mean(g)^2) of g = log(pred + .001) - log(gt + .001) where the truth is known.

    Without `variance` only the mean's term, as the releases have it for the first calls. 0 where no pixel is known.
    """
    mask = (gt > 0).to(pred.dtype)
    n = mask.sum()
    difference = (_log(pred) - _log(gt)) * mask
    mean = difference.sum() / n.clamp(min=1)
    if not variance:
        return math.sqrt(MEAN_WEIGHT) * mean.abs()
    spread = ((difference - mean) ** 2 * mask).sum() / (n - 1).clamp(min=1)
    inside = spread + MEAN_WEIGHT * mean**2
    known = inside > 0  # the root's slope at 0 is none
    return torch.where(known, inside, 1).sqrt() * known


def gradient_log_loss(pred: torch.Tensor, gt: torch.Tensor, axes: Axes = "pixels") -> torch.Tensor:
    """How far the logarithms' differences over two pixels are from the truth's, at four scales (arXiv 1804.00607).

    Over "pixels" as facebookresearch/dinov3 has it. DINOv2's works on the first two axes instead, where it meets the
    samples of the "batch" and the one channel: of one or two samples it is 0.
    """
    first, second = (-2, -1) if axes == "pixels" else (0, 1)
    total = pred.new_zeros(())
    for scale in SCALES:
        small, true = (_strided(_strided(x, first, scale), second, scale) for x in (pred, gt))
        mask = (true > 0).to(pred.dtype)
        difference = (_log(small) - _log(true)) * mask
        steps = pred.new_zeros(())
        for axis in (first, second):
            length = difference.shape[axis]
            if length > 2:
                (a, b), (known_a, known_b) = ((x.narrow(axis, 0, length - 2), x.narrow(axis, 2, length - 2))
                    for x in (difference, mask))  # fmt: skip
                steps = steps + ((a - b).abs() * known_a * known_b).sum()
        total = total + steps / mask.sum().clamp(min=1)
    return total


def l1_loss(pred: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """The mean distance in metres where the truth is known."""
    mask = (gt > 0).to(pred.dtype)
    return ((pred - gt).abs() * mask).sum() / mask.sum().clamp(min=1)


@dataclass(frozen=True)
class DepthLoss:
    """A weighted sum of losses, each over `group` images at a time and averaged over these.

    The releases train with a loss on each of their GPUs, which holds two images: the variance of SigLoss is theirs and
    not the whole batch's. `without_variance` is how many steps SigLoss has none.
    """

    sig: float = 1.0
    gradient: float = 0.0
    gradient_axes: Axes = "pixels"
    l1: float = 0.0
    group: int = 2
    without_variance: int = 100

    def __call__(self, pred: torch.Tensor, gt: torch.Tensor, step: int) -> torch.Tensor:
        """The loss () of step `step`, from 0."""
        parts = []
        for p, g in zip(pred.split(self.group), gt.split(self.group), strict=True):
            loss = self.sig * sig_loss(p, g, variance=step >= self.without_variance)
            if self.gradient:
                loss = loss + self.gradient * gradient_log_loss(p, g, self.gradient_axes)
            if self.l1:
                loss = loss + self.l1 * l1_loss(p, g)
            parts.append(loss)
        return torch.stack(parts).mean()


def _log(depth: torch.Tensor) -> torch.Tensor:
    return (depth + EPS).log()


def _strided(x: torch.Tensor, axis: int, step: int) -> torch.Tensor:
    return x.movedim(axis, 0)[::step].movedim(0, axis)
