"""What a depth head reads of a backbone, and images on their way there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from dinobench.data.transforms import ImageTransform
from dinobench.features.extraction import Compute, centre_padded
from dinobench.models.adapters import on_grid
from dinobench.types import Backbone

#: Pixels of an image that every architecture has a map of.
LEAST_SIDE = 64


@dataclass(frozen=True)
class Reading:
    """Patches of the blocks with these 0-based indices before the final norm, each beside its block's CLS token.

    Without any, the last map after the final norm alone (`Backbone.feature_map`), which every architecture has.
    """

    blocks: tuple[int, ...] = ()

    def channels(self, backbone: Backbone, compute: Compute) -> int:
        """Of what `__call__` gives, which an image of zeros tells."""
        side = -(-LEAST_SIDE // backbone.size_multiple) * backbone.size_multiple
        with compute.inference():
            return self(backbone, torch.zeros(1, 3, side, side, device=compute.device)).shape[1]

    def __call__(self, backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, H, W) of any size -> features (B, channels, h, w) float32.

        Zeros are added around to the next multiple that the backbone takes, and stay in: the map is as wide as the
        padded image, and is stretched over the image later, as in DINOv2 and DINOv3.
        """
        x = centre_padded(x, backbone.size_multiple)
        if not self.blocks:
            return backbone.feature_map(x).float()
        patch = backbone.patch_size or 1
        parts: list[torch.Tensor] = []
        for cls, patches in backbone.blocks(x, self.blocks):
            maps = on_grid(patches, x, patch)
            parts.append(maps)
            if cls is not None:
                parts.append(cls[:, :, None, None].expand_as(maps))
        return torch.cat(parts, dim=1).float()


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
