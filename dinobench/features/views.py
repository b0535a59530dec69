"""Features of several random views of an image."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from PIL import Image

from dinobench.data.subsets import Subset
from dinobench.features.extraction import extract
from dinobench.types import Backbone, Context, ImageSplit


class View(Protocol):
    """A random view of an image, such as `dinobench.training.augment.CropAndFlip`."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """The view's pixels (3, H, W) uint8."""

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) as the backbone takes them."""


def features_of_views(
    backbone: Backbone, split: ImageSplit, indices: np.ndarray, view: View, views: int, ctx: Context
) -> tuple[np.ndarray, np.ndarray]:
    """Of the images `indices` (m,) those that can be read (k,), and features (k, views, D) of their random views.

    A view hangs on the seed and on the image's place in the split alone. Raises UserError as `extract` does.
    """

    def prepare(index: int, image: Image.Image) -> np.ndarray:
        rng = np.random.default_rng([ctx.seed, int(indices[index])])
        return np.stack([view(image, rng) for _ in range(views)])

    def forward(images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([backbone.features(view.normalise(of_one)).float() for of_one in images]).flatten(1)

    some = Subset(split, indices, split.name)
    rows, read = extract(backbone, some, prepare, forward, ctx, f"Extracting views of {split.name}")
    return indices[read], rows.reshape(len(rows), views, -1)
