"""What a head reads of a backbone: maps of patch features over images of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from dinobench.features.extraction import Compute, centre_padded, cut_to_multiple
from dinobench.models.adapters import on_grid
from dinobench.types import Backbone

#: So many last blocks after the final norm, or these ones, counted from 0, before it and with their CLS tokens.
Blocks = int | tuple[int, ...]


@dataclass(frozen=True)
class MapReader:
    """A backbone's patch features.

    `blocks`: outputs of so many last blocks, each after the final norm, oldest first; or those of these blocks, counted
    from 0, before the norm and each beside its block's CLS token, as DINOv2's heads for depth have them. 1 is the last
    map (`Backbone.feature_map`), which every architecture has.

    `padding`: where sides are no multiple of the patches' the image is filled up with zeros on both sides ("centred":
    DINOv2, and DINOv3 for depth) or its last rows and columns are not seen ("cut": what the strided convolution of
    DINOv3 does). Either way the map counts as that of the whole image, and is stretched over it later.
    """

    backbone: Backbone
    blocks: Blocks = 1
    padding: Literal["centred", "cut"] = "cut"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, H, W) float32 -> (B, channels, h, w) float32."""
        multiple = self.backbone.size_multiple
        if self.padding == "centred":
            x = centre_padded(x, multiple)
        elif min(x.shape[-2:]) >= multiple:
            x = cut_to_multiple(x, multiple)
        if self.blocks == 1:
            return self.backbone.feature_map(x).float()
        patch = self.backbone.patch_size or 1
        if isinstance(self.blocks, int):
            layers = self.backbone.layers(x, self.blocks)
            return torch.cat([on_grid(patches, x, patch) for _, patches in layers], dim=1).float()
        parts: list[torch.Tensor] = []
        for cls, patches in self.backbone.blocks(x, self.blocks):
            parts.append(on_grid(patches, x, patch))
            if cls is not None:
                parts.append(cls[:, :, None, None].expand_as(parts[-1]))
        return torch.cat(parts, dim=1).float()

    def shape(self, side: int, compute: Compute) -> tuple[int, int, int]:
        """(channels, h, w) of a square of `side` pixels, found by looking at a black one."""
        with compute.inference():
            channels, height, width = self(torch.zeros(1, 3, side, side, device=compute.device)).shape[1:]
        return channels, height, width
