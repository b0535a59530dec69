"""What training of vision transformers adds against overfitting: erased boxes, mixed images, dropped blocks.

Everything random is drawn per image from the generator that the loader seeds by image and pass, or per step from one
seeded by the step's number. A training is then the same whatever the number of processes, the micro-batches, and the
interruptions, and there is no generator whose state would have to be kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from dinobench.training.augment import ATTEMPTS, CropAndFlip
from dinobench.training.randaugment import RandAugment

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
    """Erase in place: x (B, 3, H, W) normalised, boxes (B, 5) as drawn by `Erasing`."""
    generator = torch.Generator(x.device)
    for image, box in zip(x, boxes.tolist(), strict=True):
        top, left, height, width, seed = map(int, box)
        if height:
            generator.manual_seed(seed)
            noise = torch.randn(3, height, width, generator=generator, device=x.device)
            image[:, top : top + height, left : left + width] = noise


@dataclass(frozen=True)
class TrainView:
    """A training image as the loader hands it out, and the numbers drawn for it.

    `uniforms`: how many numbers in 0..1 the model's `DropPath` modules read.
    """

    crop: CropAndFlip
    randaugment: RandAugment | None = None
    erasing: Erasing | None = None
    uniforms: int = 0

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """RGB image -> (3, size, size) uint8, (ERASING + uniforms,) float64."""
        view = self.crop(image, rng)
        if self.randaugment:
            changed = self.randaugment(Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0))), rng)
            view = np.array(np.asarray(changed).transpose(2, 0, 1), order="C")
        draws = np.zeros(ERASING + self.uniforms)
        if self.erasing:
            draws[:ERASING] = self.erasing.draw(view.shape[1], view.shape[2], rng)
        draws[ERASING:] = rng.random(self.uniforms)
        return view, draws


@dataclass(frozen=True)
class Mix:
    """How the images of a step are mixed: `lam` of an image and 1 - lam of its partner, everywhere or in a box.

    `box` (top, bottom, left, right) is CutMix's: inside it is the partner, and lam is the share outside.
    """

    lam: float = 1.0
    box: tuple[int, int, int, int] | None = None

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> the same with neighbours 2i and 2i + 1 mixed; the last of an odd number stays as it is."""
        if self.lam == 1 and self.box is None:
            return x
        partner = x[partners(len(x)).to(x.device)]
        if self.box is None:
            return x * self.lam + partner * (1 - self.lam)
        top, bottom, left, right = self.box
        mixed = x.clone()
        mixed[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
        return mixed

    def targets(self, labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
        """Labels (B,) -> probabilities (B, classes), label smoothing (Szegedy et al. 2015, arXiv 1512.00567) first."""
        rest = smoothing / classes
        hot = torch.full((len(labels), classes), rest, device=labels.device)
        hot.scatter_(1, labels[:, None], 1 - smoothing + rest)
        return hot * self.lam + hot[partners(len(labels)).to(labels.device)] * (1 - self.lam)


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2017, arXiv 1710.09412) or CutMix (Yun et al. 2019, arXiv 1905.04899), one per step.

    `mixup`, `cutmix`: alpha of the Beta distribution, 0 for none; `switch`: probability of CutMix where both are on.
    Drawn as timm's `Mixup` in mode "batch" does, lam corrected for boxes that reach over the border.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Mix:
        """The mix of one step of images of that size."""
        if not self.mixup and not self.cutmix:
            return Mix()
        cut = bool(self.cutmix) and (not self.mixup or rng.random() < self.switch)
        alpha = self.cutmix if cut else self.mixup
        lam = float(rng.beta(alpha, alpha))
        if not cut:
            return Mix(lam)
        box = cut_box(height, width, lam, int(rng.integers(height)), int(rng.integers(width)))
        return Mix(1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width), box)


def cut_box(height: int, width: int, lam: float, row: int, column: int) -> tuple[int, int, int, int]:
    """CutMix's box (top, bottom, left, right) of area 1 - lam around a point, cut off at the image's border."""
    h, w = int(height * math.sqrt(1 - lam)), int(width * math.sqrt(1 - lam))
    top, bottom = max(row - h // 2, 0), min(row + (h + 1) // 2, height)
    left, right = max(column - w // 2, 0), min(column + (w + 1) // 2, width)
    return top, bottom, left, right


def partners(n: int) -> torch.Tensor:
    """Of each of n images the one that it is mixed with.

    >>> partners(5).tolist()
    [1, 0, 3, 2, 4]
    """
    return (torch.arange(n) ^ 1).clamp(max=max(n - 1, 0))


class Draws:
    """The uniform numbers (B, k) of the images in the model at the moment."""

    uniform: torch.Tensor


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): in training, a block's residual is left out for an image
    with probability `rate`, and otherwise divided by 1 - rate. timm's, but for where the random numbers come from."""

    def __init__(self, rate: float, draws: Draws, index: int) -> None:
        super().__init__()
        self.rate, self.draws, self.index = rate, draws, index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, ...)"""
        if not self.training:
            return x
        kept = (self.draws.uniform[:, self.index] >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.view(-1, *[1] * (x.ndim - 1))


def add_drop_path(module: nn.Module, rate: float, draws: Draws) -> int:
    """Put `DropPath` into every residual branch of a timm model, from 0 in the first block to `rate` in the last.

    Returns how many there are, 0 where the model has no such blocks.
    """
    names = ("drop_path", "drop_path1", "drop_path2")
    blocks: list[Any] = [m for m in module.modules() if any(hasattr(m, n) for n in names)]
    count = 0
    for depth, block in enumerate(blocks):
        own = rate * depth / max(len(blocks) - 1, 1)
        for name in names:
            if own > 0 and hasattr(block, name):
                setattr(block, name, DropPath(own, draws, count))
                count += 1
    return count
