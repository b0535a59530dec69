"""Images on their way to a backbone that a depth head reads, and depth on the grid of its map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from dinobench.data.transforms import ImageTransform


def to_pixels(image: Image.Image, scale: float) -> np.ndarray:
    """(3, h, w) uint8 of an RGB image at `scale` of its size, bilinear and antialiased by PIL."""
    size = None if scale == 1 else (max(1, round(image.height * scale)), max(1, round(image.width * scale)))
    return ImageTransform(size, None, "bilinear")(image)


def normalised(images: Sequence[np.ndarray], transform: ImageTransform, device: torch.device) -> torch.Tensor:
    """Images (3, H, W) of one size on the scale 0..255, uint8 or float32 -> (B, 3, H, W) float32 on the device."""
    return transform.normalise(torch.from_numpy(np.stack(images)).to(device))


def at_cells(depth: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Depth (H, W) at the centres of a grid's cells (h, w), by the nearest pixel, so that unknown stays unknown."""
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in zip(grid, depth.shape, strict=True))
    return depth[rows.astype(int)[:, None], columns.astype(int)]
