"""Learned position embeddings at other resolutions than the one they were trained at.

Two conventions decide published numbers. Models without registers (DINO, and DINOv2 in its first release) resample
bicubically by *scale factor*, with 0.1 added to the target size against rounding down (facebookresearch/dino,
`interpolate_pos_encoding`); the kernel's coordinates then come from that factor, which moves every value a little.
Models with registers (arXiv 2309.16588, facebookresearch/dinov2 `interpolate_offset=0.0, interpolate_antialias=True`)
resample to the target *size* with antialiasing.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

SCALE_OFFSET = 0.1  # patches added to the target height and width; facebookresearch/dino, its issue 8


def resample_abs_pos_embed(
    rows: torch.Tensor, grid: tuple[int, int], target: tuple[int, int], registers: bool
) -> torch.Tensor:
    """Patch position embedding (1, gh * gw, D) on `grid` = (gh, gw) -> (1, h * w, D) on `target` = (h, w).

    Used as it is only where `target` is the grid itself: a grid with as many patches in another shape is resampled.
    """
    if target == grid:
        return rows
    h, w = target
    image = rows.reshape(1, grid[0], grid[1], -1).permute(0, 3, 1, 2)
    if registers:
        image = F.interpolate(image, size=target, mode="bicubic", align_corners=False, antialias=True)
    else:
        factors = ((h + SCALE_OFFSET) / grid[0], (w + SCALE_OFFSET) / grid[1])
        image = F.interpolate(image, scale_factor=factors, mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).reshape(1, h * w, -1)
