"""Small requests for features of coloured images, and a forward pass that ends a run part-way."""

from __future__ import annotations

import numpy as np
import torch
from helpers.fakes import FakeSplit

from dinobench.data.transforms import ImageTransform
from dinobench.types import FeatureRequest

SMALL = ImageTransform(resize=8, crop=8)
CLS = FeatureRequest(SMALL)
ALL = FeatureRequest(SMALL, layers=3, mean_patches=True)


def expected(split: FakeSplit) -> np.ndarray:
    colors = torch.from_numpy(split.colors)[..., None, None]
    return SMALL.normalise(colors)[..., 0, 0].numpy()


class Stop(Exception):
    pass


def stop_after(images: int):
    """Raises in the forward pass that would exceed so many images."""
    seen = 0

    def before(x: torch.Tensor) -> None:
        nonlocal seen
        seen += len(x)
        if seen > images:
            raise Stop

    return before
