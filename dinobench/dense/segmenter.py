"""How an image is seen by a segmentation head: resized, window by window, at several scales, and its scores merged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from dinobench.algorithms.sliding_window import Windows, merge, sliding_windows, winners
from dinobench.data.label_maps import LabelMapSplit, read_pair
from dinobench.data.transforms import ImageTransform
from dinobench.dense.reading import MapReader
from dinobench.dense.resizing import Library, rescaled, resize_pixels
from dinobench.features.extraction import forward_batches, out_of_range
from dinobench.inputs import Channels
from dinobench.types import Context

#: Images whose windows go through the backbone together on a CPU and elsewhere, and the most windows in one pass.
BATCH, WINDOWS = (1, 8), 32
#: DINOv3 rounds the shorter side at a scale below 1 up to a multiple of this.
SMALLER_MULTIPLE = 32


@dataclass(frozen=True)
class SlidingView:
    """What a head sees of an image it is scored on.

    `side`, `longest`: as of `rescaled`, times each of `ratios`; with `flip` each scale is seen mirrored too. `crop`,
    `stride`, `square`: as of `sliding_windows`. `mean`, `std`: as of an `ImageTransform`.
    """

    side: int = 512
    longest: int = 0
    crop: int = 512
    stride: int = 341
    square: bool = True
    library: Library = "pil"
    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    mean: Channels | None = None
    std: Channels | None = None

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of an image at each scale.

        >>> SlidingView(ratios=(1.0, 0.9, 1.32)).sizes(375, 500)
        [(512, 683), (480, 640), (675, 900)]
        """
        sides = [int(self.side * ratio) for ratio in self.ratios]
        if self.square:
            sides = [
                math.ceil(side / SMALLER_MULTIPLE) * SMALLER_MULTIPLE if ratio < 1 else side
                for side, ratio in zip(sides, self.ratios, strict=True)
            ]
        limits = [int(self.longest * ratio) for ratio in self.ratios]
        return [rescaled(height, width, side, limit) for side, limit in zip(sides, limits, strict=True)]

    def __call__(self, image: Image.Image) -> list[np.ndarray]:
        """RGB image -> (3, h, w) uint8 at each scale."""
        pixels = np.asarray(image)
        resized = [resize_pixels(pixels, size, self.library) for size in self.sizes(*pixels.shape[:2])]
        return [np.array(one.transpose(2, 0, 1), order="C") for one in resized]

    def windows(self, height: int, width: int) -> Windows:
        return sliding_windows(height, width, self.crop, self.stride, self.square)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 -> float32."""
        return ImageTransform(mean=self.mean, std=self.std).normalise(pixels)


class Segmenter:
    """A backbone and a head as one that tells the class of every pixel. The head computes in float32 in any case."""

    def __init__(self, maps: MapReader, head: nn.Module, view: SlidingView) -> None:
        self.maps, self.head, self.view = maps, head, view

    def scores(self, scales: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Images at each scale, (B, 3, h, w) uint8 -> scores (B, C, H, W) at `size`.

        They are the head's where there is one view, and the mean over the views of their softmax where there are more.
        """
        views = [(x, flipped) for x in scales for flipped in ((False, True) if self.view.flip else (False,))]
        if len(views) == 1:
            return self._seen(scales[0], size)
        total: torch.Tensor | None = None
        for x, flipped in views:
            own = self._seen(x.flip(-1) if flipped else x, size).softmax(dim=1)
            own = own.flip(-1) if flipped else own
            total = own if total is None else total.add_(own)
        assert total is not None
        return total / len(views)

    def _seen(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        windows = self.view.windows(*pixels.shape[2:])
        cut = windows.cut(self.view.normalise(pixels))
        maps = [self.maps(part) for part in cut.split(WINDOWS)]
        with torch.autocast(pixels.device.type, enabled=False):
            return merge(torch.cat([self.head(part.float()) for part in maps]), windows, size)

    def label_maps(
        self,
        split: LabelMapSplit,
        indices: Sequence[int],
        ctx: Context,
        description: str,
        broken: list[int],
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Of every image its index, the predicted and the true label map (H, W) uint8; `broken` gets the unreadable.

        Raises UserError where scores are not finite.
        """

        def load(index: int) -> tuple[list[np.ndarray], np.ndarray]:
            image, labels = read_pair(split, index)
            return self.view(image), labels

        def forward(loaded: list[tuple[list[np.ndarray], np.ndarray]]) -> tuple[torch.Tensor, bool]:
            pixels = zip(*(scales for scales, _ in loaded), strict=True)
            scales = [torch.from_numpy(np.stack(one)).to(ctx.device, non_blocking=True) for one in pixels]
            scores = self.scores(scales, loaded[0][1].shape)
            return winners(scores).cpu(), bool(scores.sum().isfinite())

        batches = forward_batches(
            ctx, indices, load, forward, batch=BATCH, broken=broken,
            key=lambda loaded: (loaded[1].shape, *(one.shape for one in loaded[0])),
            watch=lambda loaded: ctx.progress(loaded, description, len(indices)),
        )  # fmt: skip
        for batch, loaded, (predicted, finite) in batches:
            if not finite:
                raise out_of_range(self.maps.backbone, [split.ids[index] for index in batch])
            yield from zip(batch, predicted.numpy(), [labels for _, labels in loaded], strict=True)
