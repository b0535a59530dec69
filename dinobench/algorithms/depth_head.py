"""Linear heads that read depth off patch features, as the evaluations of DINOv2 and DINOv3 have them.

(Oquab et al. 2023, arXiv 2304.07193, section 7.4; Siméoni et al. 2025, arXiv 2508.10104; the bins are those of AdaBins,
Bhat et al. 2021, arXiv 2011.14141.) Depth is a weighted mean of fixed bins, the weights being a 1 x 1 convolution's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from dinobench.algorithms.sliding_window import linear_weights

Spacing = Literal["linear", "log"]
Norm = Literal["linear", "softmax", "sigmoid"]
#: Added to every bin's weight by the norm "linear", so that none is ever without: facebookresearch/dinov2, dinov3.
LEAST_WEIGHT = 0.1
#: Upsampled logits that exist at once on a CPU, in numbers: they stay in a core's cache.
AT_ONCE = 1 << 18


@dataclass(frozen=True)
class DepthBins:
    """`count` depths from `low` to `high` metres, evenly spaced, themselves or their logarithms; 1 is a regression."""

    low: float
    high: float
    count: int = 256
    spacing: Spacing = "linear"
    norm: Norm = "linear"

    def centers(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """(count,) float32."""
        if self.spacing == "linear":
            return torch.linspace(self.low, self.high, self.count, device=device)
        return torch.linspace(math.log(self.low), math.log(self.high), self.count, device=device).exp()

    def depth(self, logits: torch.Tensor, upsample: int = 1) -> torch.Tensor:
        """(B, count, h, w), brought to `upsample` times the size bilinearly -> depth (B, 1, H, W) of that size.

        With one channel relu(logit) + low.
        """
        if upsample > 1 and self.norm == "linear" and logits.shape[1] > 1:
            out: torch.Tensor = _UpsampledMean.apply(logits, self.centers(logits.device).to(logits), upsample)
            return out
        if upsample > 1:
            logits = F.interpolate(logits, scale_factor=upsample, mode="bilinear", align_corners=False)
        if logits.shape[1] == 1:
            return logits.relu() + self.low
        if self.norm == "softmax":
            weights = logits.softmax(dim=1)
        else:
            weights = logits.sigmoid() if self.norm == "sigmoid" else logits.relu()
        # Weighted sum and sum in one convolution, and the least weight added to these two instead of to every weight:
        # the weights are many, and each pass over them counts beside a backbone's forward pass.
        centers = self.centers(logits.device)
        both = torch.stack([centers, torch.ones_like(centers)])
        least = LEAST_WEIGHT * both.sum(1) if self.norm == "linear" else None
        weighted, total = F.conv2d(weights, both[:, :, None, None], least).split(1, dim=1)
        return weighted / total


class DepthHead(nn.Module):
    """Features (B, `channels`, h, w) -> depth (B, 1, `upsample` * h, `upsample` * w) in metres.

    DINOv3's has a batch norm and stays at the patches' resolution; DINOv2's has none and upsamples the features
    bilinearly before its convolution. Both being linear and the interpolation's weights summing to one, the convolution
    comes first here: the same function at a fraction of the work. `init_std` None is torch's usual start, as in
    DINOv2; a number is the deviation of weights around 0, with biases of 0.
    """

    def __init__(
        self, channels: int, bins: DepthBins, *, upsample: int = 1, batchnorm: bool = False,
        init_std: float | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.bins, self.upsample = bins, upsample
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.conv_depth = nn.Conv2d(channels, bins.count, 1)
            if init_std is not None:
                nn.init.normal_(self.conv_depth.weight, std=init_std)
                self.conv_depth.bias = nn.Parameter(torch.zeros(bins.count))
        self.batchnorm_layer = nn.BatchNorm2d(channels) if batchnorm else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) -> (B, 1, H, W), not clamped."""
        return self.bins.depth(self.conv_depth(self.batchnorm_layer(features)), self.upsample)


class _UpsampledMean(torch.autograd.Function):
    """`DepthBins.depth` of upsampled logits by the norm "linear", with its gradient written down.

    The upsampled logits are `upsample` squared times as many as there are, and every pass over them, of which autograd
    makes ten, counts beside a backbone's forward pass. Here they exist a few channels at a time, in a core's cache.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, centers: torch.Tensor, upsample: int) -> torch.Tensor:
        rows, columns = (linear_weights(side, upsample * side).to(logits) for side in logits.shape[2:])
        both = torch.stack([centers, torch.ones_like(centers)])  # for the weighted sum of bins and that of the weights
        sums = (LEAST_WEIGHT * both.sum(1))[:, None].repeat(len(logits), 1, len(rows) * len(columns))
        for images, channels in _parts(logits, upsample):
            weights = (rows @ (logits[images, channels] @ columns.T)).flatten(2).relu_()
            sums[images] += both[:, channels] @ weights
        depth = sums[:, :1] / sums[:, 1:]
        ctx.save_for_backward(logits, rows, columns, both, depth, sums[:, 1:])
        ctx.upsample = upsample
        return depth.unflatten(2, (len(rows), len(columns)))

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> Any:
        logits, rows, columns, both, depth, total = ctx.saved_tensors
        by_total = slope.flatten(2) / total
        of_sums = torch.cat([by_total, -by_total * depth], dim=1)  # (B, 2, H * W)
        out = torch.empty_like(logits)
        for images, channels in _parts(logits, ctx.upsample):
            full = rows @ (logits[images, channels] @ columns.T)
            of_weights = (both[:, channels].T @ of_sums[images]).view_as(full).mul_(full.sign_().relu_())
            out[images, channels] = rows.T @ (of_weights @ columns)
        return out, None, None


def _parts(logits: torch.Tensor, upsample: int) -> list[tuple[slice, slice]]:
    """Images and channels of (B, C, h, w) whose upsampled logits exist together: on a CPU few, elsewhere all."""
    images, channels, h, w = logits.shape
    if logits.device.type != "cpu":
        return [(slice(None), slice(None))]
    step = max(1, AT_ONCE // (h * w * upsample**2))
    return [(slice(i, i + 1), slice(c, c + step)) for i in range(images) for c in range(0, channels, step)]


def four_blocks(depth: int) -> tuple[int, int, int, int]:
    """The 0-based blocks whose outputs DINOv2's four-block heads read.

    The ends of the quarters, but of 24 blocks the 5th and not the 6th, a slip that the releases of DINOv2 and DINOv3
    both keep. Raises ValueError for fewer than four.

    >>> four_blocks(12), four_blocks(24), four_blocks(40)
    ((2, 5, 8, 11), (4, 11, 17, 23), (9, 19, 29, 39))
    """
    if depth < 4:
        raise ValueError(f"{depth} blocks have no four of them")
    first, second, third = (depth * quarter // 4 - 1 for quarter in (1, 2, 3))
    return 4 if depth == 24 else first, second, third, depth - 1


def to_labels(
    depth: torch.Tensor, flipped: torch.Tensor | None, size: tuple[int, int], low: float, high: float, clamp: str
) -> torch.Tensor:
    """Depth of a head (B, 1, h, w), and of the mirrored images, -> (B, H, W) of the labels' size, clamped.

    `clamp` "head" is DINOv2's order: each map is clamped, brought to size, and both are averaged; "labels" DINOv3's:
    averaged, brought to size, clamped.
    """

    def sized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    maps = [depth] if flipped is None else [depth, flipped.flip(-1)]
    if clamp == "head":
        return torch.stack([sized(x.clamp(low, high)) for x in maps]).mean(0)[:, 0]
    return sized(torch.stack(maps).mean(0)).clamp(low, high)[:, 0]
