"""Mask propagation as published, with the whole affinity matrix: slow, large, and plain enough to be trusted."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def propagate(
    features: torch.Tensor,
    masks: torch.Tensor,
    context: int = 7,
    window: int = 12,
    circle: bool = False,
    top_k: int = 5,
    temperature: float = 0.1,
) -> torch.Tensor:
    """Features (T, H, W, D) of all frames and masks (C, H, W) of the first -> soft masks (T, C, H, W)."""
    frames, height, width, dim = features.shape
    unit = F.normalize(features.reshape(frames, height * width, dim), dim=-1)
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    apart = torch.stack([row[:, None] - row, column[:, None] - column]).float()
    near = torch.linalg.vector_norm(apart, ord=2 if circle else torch.inf, dim=0) <= window
    soft = [masks.flatten(1)]
    for t in range(1, frames):
        sources = [0, *range(max(1, t - context), t)]
        affinity = torch.exp(unit[sources].flatten(0, 1) @ unit[t].T / temperature)
        affinity = (affinity.view(len(sources), *near.shape) * near).flatten(0, 1)
        smallest = affinity.topk(min(top_k, len(affinity)), dim=0).values[-1]
        affinity[affinity < smallest] = 0
        soft.append(torch.cat([soft[s] for s in sources], dim=1) @ (affinity / affinity.sum(0)))
    return torch.stack(soft).view(frames, -1, height, width)
