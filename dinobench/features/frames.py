"""Frames of a video on their way to a backbone, and the grids of patch features that come of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image

from dinobench.data.transforms import ImageTransform, for_backbone
from dinobench.data.video import Video
from dinobench.features.extraction import cut_to_multiple, forward_batches, out_of_range
from dinobench.inputs import Channels
from dinobench.types import Backbone, Context

#: Frames per forward pass: a CPU gains nothing from more than one, elsewhere enough to keep a GPU busy.
BATCH = 1, 8


@dataclass(frozen=True)
class FrameInput:
    """How frames are resized and normalised.

    The shorter side becomes `short_side` pixels. With `rounding` "down" the longer one is brought to a multiple of
    `multiple`, with "up" both are, and to whole patches. `interpolation` "bilinear" is OpenCV's, "bicubic" PIL's, which
    filters. `mean`, `std`: as of an `ImageTransform`.
    """

    short_side: int
    multiple: int
    rounding: Literal["down", "up"] = "down"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Channels | None = None
    std: Channels | None = None

    def size(self, height: int, width: int, whole: int = 1) -> tuple[int, int]:
        """(height, width) of a frame that a backbone sees of which `whole` pixels are whole patches.

        >>> FrameInput(480, 64).size(480, 854), FrameInput(480, 64).size(1080, 608)
        ((480, 832), (832, 480))
        >>> FrameInput(960, 1, "up").size(480, 854, 16), FrameInput(960, 1, "up").size(480, 854, 14)
        ((960, 1712), (966, 1722))
        """
        long, short = max(height, width), min(height, width)
        if self.rounding == "up":
            multiple = math.lcm(self.multiple, whole)
            shorter = -(-self.short_side // multiple) * multiple
            longer = -(-long * shorter // (short * multiple)) * multiple
        else:
            shorter = self.short_side
            longer = int(shorter * long / short // self.multiple * self.multiple)
        return (longer, shorter) if height > width else (shorter, longer)

    def grid(self, size: tuple[int, int], backbone: Backbone) -> tuple[int, int]:
        """(rows, columns) of the patches that a backbone has of frames of `size` (height, width)."""
        height, width = self.size(*size, _whole(backbone))
        patch = backbone.patch_size or 1
        return height // patch, width // patch

    def __call__(self, frame: np.ndarray, whole: int = 1) -> torch.Tensor:
        """RGB (H, W, 3) uint8 -> (3, h, w) float32 of `size`, resized on 8 bits."""
        height, width = self.size(frame.shape[0], frame.shape[1], whole)
        if self.interpolation == "bilinear":
            resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        else:
            resized = np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
        return ImageTransform(mean=self.mean, std=self.std).normalise(pixels)


def frame_grids(backbone: Backbone, video: Video, view: FrameInput, ctx: Context) -> Iterator[torch.Tensor]:
    """Every frame's patch features (rows, columns, D) after the last block's norm, a few frames per forward pass.

    Raises BrokenImage for the first frame that cannot be read, UserError for features that are not finite.
    """
    patch = backbone.patch_size or 1
    view = for_backbone(view, backbone)
    broken: list[int] = []

    def load(index: int) -> torch.Tensor:
        return view(video.frame(index), _whole(backbone))

    def forward(frames: list[torch.Tensor]) -> torch.Tensor:
        # The reference's patch embedding never sees what is beyond the last whole patch.
        x = cut_to_multiple(torch.stack(frames).to(ctx.device), patch)
        [(_, patches)] = backbone.layers(x, 1)
        return patches.unflatten(1, (x.shape[-2] // patch, x.shape[-1] // patch)).float()

    for batch, _, grids in forward_batches(ctx, range(len(video)), load, forward, batch=BATCH, broken=broken):
        if not grids.isfinite().all():
            raise out_of_range(backbone, [f"{video.name}/{video.names[index]}" for index in batch])
        if not broken:
            yield from grids
    if broken:
        video.frame(broken[0])  # which says what is wrong with it


def _whole(backbone: Backbone) -> int:
    """Pixels that sides are a multiple of where the backbone sees all of a frame."""
    return math.lcm(backbone.patch_size or 1, backbone.size_multiple)
