"""Stochastic depth whose random numbers come with the images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Draws:
    """The uniform numbers (B, k) of the images in the model at the moment."""

    uniform: torch.Tensor


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): in training, a block's residual is left out for an image
    with probability `rate`, and otherwise divided by 1 - rate. timm's, but for where the random numbers come from."""

    def __init__(self, rate: float, draws: Draws, index: int) -> None:
        super().__init__()
        self.rate, self.draws, self.index = rate, draws, index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, ...)"""
        if not self.training:
            return x
        kept = (self.draws.uniform[:, self.index] >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.view(-1, *[1] * (x.ndim - 1))


def add_drop_path(module: nn.Module, rate: float, draws: Draws) -> int:
    """Put `DropPath` into every residual branch of a timm model, from 0 in the first block to `rate` in the last.

    Returns how many there are, 0 where the model has no such blocks.
    """
    names = ("drop_path", "drop_path1", "drop_path2")
    blocks: list[Any] = [m for m in module.modules() if any(hasattr(m, n) for n in names)]
    count = 0
    for depth, block in enumerate(blocks):
        own = rate * depth / max(len(blocks) - 1, 1)
        for name in names:
            if own > 0 and hasattr(block, name):
                setattr(block, name, DropPath(own, draws, count))
                count += 1
    return count
