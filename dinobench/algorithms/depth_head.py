"""Linear heads that read depth off patch features, as the evaluations of DINOv2 and DINOv3 have them.

(Oquab et al. 2023, arXiv 2304.07193, section 7.4; Siméoni et al. 2025, arXiv 2508.10104; the bins are those of AdaBins,
Bhat et al. 2021, arXiv 2011.14141.) Depth is a weighted mean of fixed bins, the weights being a 1 x 1 convolution's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Spacing = Literal["linear", "log"]
Norm = Literal["linear", "softmax", "sigmoid"]
#: Added to every bin's weight by the norm "linear", so that none is ever without: facebookresearch/dinov2, dinov3.
LEAST_WEIGHT = 0.1


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

    def depth(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, count, H, W) -> depth (B, 1, H, W); with one channel relu(logit) + low."""
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
        logits = self.conv_depth(self.batchnorm_layer(features))
        if self.upsample > 1:
            logits = F.interpolate(logits, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        return self.bins.depth(logits)


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
