"""Image files and a backbone's maps of them, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dinobench.data.decoding import BROKEN_IMAGE, decode
from dinobench.data.transforms import ImageTransform, for_backbone
from dinobench.errors import UserError
from dinobench.features.extraction import cut_to_multiple, forward_batches, out_of_range
from dinobench.features.maps import maps_of
from dinobench.types import Backbone, Context


def seen_and_maps(
    backbone: Backbone, files: Sequence[Path], size: int, ctx: Context
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each image what the backbone saw of it (H, W, 3) uint8, and its last map (D, h, w) float32, in their order.

    Images are resized to a shorter side of `size` pixels and lose what is beyond whole patches. Raises UserError for
    files that cannot be read, images that are less than a patch, and features that are not finite.
    """
    transform = for_backbone(ImageTransform(resize=size, crop=None), backbone)
    found: dict[Path, tuple[np.ndarray, np.ndarray]] = {}

    def load(file: Path) -> torch.Tensor:
        try:
            image = decode(file)
        except BROKEN_IMAGE as error:
            raise UserError(f"{file}: cannot be read as an image ({error}); give a picture file") from error
        pixels = cut_to_multiple(torch.from_numpy(transform(image)), backbone.size_multiple)
        if not pixels.numel():
            raise UserError(f"{file}: less than a patch of {backbone.info.name} at {size} pixels; take a larger --size")
        return pixels

    def forward(images: list[torch.Tensor]) -> torch.Tensor:
        return maps_of(backbone, transform.normalise(torch.stack(images).to(ctx.device)))

    passes = forward_batches(ctx, list(files), load, forward, key=lambda pixels: pixels.shape)
    for batch, loaded, maps in passes:
        if not maps.isfinite().all():
            raise out_of_range(backbone, [str(file) for file in batch])
        for file, pixels, own in zip(batch, loaded, maps, strict=True):
            found[file] = np.moveaxis(pixels.numpy(), 0, -1), own.cpu().numpy()
    return [found[file][0] for file in files], [found[file][1] for file in files]
