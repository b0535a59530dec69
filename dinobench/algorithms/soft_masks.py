"""From a label map to soft masks on the patch grid and back, as the released programs of mask propagation do it.

DINO's (facebookresearch/dino, eval_video_segmentation.py) resizes with PIL and bilinearly, DINOv3's
(facebookresearch/dinov3, notebooks/segmentation_tracking.ipynb) with torch's two kinds of nearest.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

#: How a label map is brought to the grid: PIL's nearest, or torch's `nearest-exact`. Both take the pixel at a patch's
#: centre; where that lies between two pixels they may differ in which.
Sampling = Literal["pil", "nearest-exact"]


def first_masks(labels: np.ndarray, grid: tuple[int, int], sampling: Sampling = "pil") -> torch.Tensor:
    """The first mask (H, W) uint8, brought to the patch grid, as one-hot (C, rows, columns) float32.

    There are as many channels as the highest label found on the grid, plus one: an object that falls between the
    patches is lost from the start.
    """
    if sampling == "pil":
        small = np.asarray(Image.fromarray(labels).resize((grid[1], grid[0]), Image.Resampling.NEAREST))
        on_grid = torch.from_numpy(small.astype(np.int64))
    else:
        whole = torch.from_numpy(labels.astype(np.float32))[None, None]
        on_grid = F.interpolate(whole, grid, mode="nearest-exact")[0, 0].long()
    return F.one_hot(on_grid).permute(2, 0, 1).float()


def labels_of(masks: torch.Tensor, patch: int, size: tuple[int, int]) -> np.ndarray:
    """Soft masks on the grid (C, rows, columns) -> labels (H, W) uint8 at `size`, as DINO's release has them.

    Upsampled bilinearly, each channel stretched to 0..1 where it has anything, the largest wins.
    """
    full = F.interpolate(masks[None], scale_factor=patch, mode="bilinear", align_corners=False)[0]
    # 0 / 0 of a constant channel is NaN in the release, and its argmax takes NaN for the largest
    full = torch.where(full.amax((1, 2), keepdim=True) > 0, _stretched(full, math.inf), full)
    return np.asarray(Image.fromarray(_winner(full)).resize((size[1], size[0]), Image.Resampling.NEAREST))


def nearest_labels_of(masks: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Soft masks on the grid (C, rows, columns) -> labels (H, W) uint8 at `size`, as DINOv3's notebook has them.

    Upsampled by torch's `nearest`, each channel stretched to 0..1, a constant one 0, the largest wins.
    """
    return _winner(_stretched(F.interpolate(masks[None], size, mode="nearest")[0], 0.0))


def _stretched(full: torch.Tensor, constant: float) -> torch.Tensor:
    """Channels (C, H, W), each brought to 0..1, those without any difference in them to `constant`."""
    low, high = full.amin((1, 2), keepdim=True), full.amax((1, 2), keepdim=True)
    return torch.where(high > low, (full - low) / (high - low), constant)


def _winner(full: torch.Tensor) -> np.ndarray:
    """Channels (C, H, W) -> the largest one's index (H, W) uint8, the first of equal ones."""
    best, winner = full[0], torch.zeros(full.shape[1:], dtype=torch.uint8, device=full.device)
    for channel in range(1, len(full)):  # an argmax over the first dimension takes 30 times as long on a CPU
        winner.masked_fill_(full[channel] > best, channel)
        best = torch.maximum(best, full[channel])
    return winner.cpu().numpy()
