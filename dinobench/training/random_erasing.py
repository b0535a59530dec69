"""Random erasing: a box of a normalised image becomes noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

#: Draws of a box before nothing is erased, as in timm's RandomErasing.
ATTEMPTS = 10
#: Numbers at the front of a view's draws that random erasing reads: top, left, height, width, seed of the noise.
ERASING = 5


@dataclass(frozen=True)
class Erasing:
    """Random erasing (Zhong et al. 2017, arXiv 1708.04896): a box of the normalised image becomes normal noise.

    `area`: share of the image's area, uniform; `aspect`: the smallest of height to width, its logarithm uniform
    (timm's `RandomErasing` with mode "pixel", one box).
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: float = 0.3

    def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int, int]:
        """(top, left, height, width, seed), of height and width 0 where nothing is erased."""
        if rng.random() < self.probability:
            for _ in range(ATTEMPTS):
                area = rng.uniform(*self.area) * height * width
                aspect = math.exp(rng.uniform(math.log(self.aspect), -math.log(self.aspect)))
                h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if 0 < h < height and 0 < w < width:
                    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                    return int(top), int(left), h, w, int(rng.integers(2**31))
        return 0, 0, 0, 0, 0


def erase(x: torch.Tensor, boxes: torch.Tensor) -> None:
    """Erase in place: x (B, 3, H, W) normalised, boxes (B, 5) of the host as drawn by `Erasing`."""
    generator = torch.Generator(x.device)
    for image, box in zip(x, boxes.numpy().tolist(), strict=True):
        top, left, height, width, seed = map(int, box)
        if height:
            generator.manual_seed(seed)
            noise = torch.randn(3, height, width, generator=generator, device=x.device)
            image[:, top : top + height, left : left + width] = noise
