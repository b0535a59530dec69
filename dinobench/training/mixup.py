"""Mixup and CutMix: images of a step mixed in pairs, and their labels with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


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
        partner = x[partners(len(x), x.device)]
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
        return hot * self.lam + hot[partners(len(labels), labels.device)] * (1 - self.lam)


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


def partners(n: int, device: torch.device | None = None) -> torch.Tensor:
    """Of each of n images the one that it is mixed with.

    >>> partners(5).tolist()
    [1, 0, 3, 2, 4]
    """
    return (torch.arange(n, device=device) ^ 1).clamp(max=max(n - 1, 0))


def in_pairs(n: int) -> np.ndarray:
    """An order of 0..n-1 in which first and last, second and last but one, ... are neighbours, to be mixed.

    Neighbours stay together in any part of even length, so that mixing does not depend on how a step is cut up.

    >>> in_pairs(5).tolist()
    [0, 4, 1, 3, 2]
    """
    both = np.stack([np.arange(n), np.arange(n)[::-1]], axis=1).ravel()
    return both[:n]


def shard_in_pairs(shard: Callable[[int], slice], n: int) -> slice:
    """This process's part of n images, in which neighbours 2i and 2i + 1 stay together; `shard` is the context's."""
    pairs = shard(-(-n // 2))
    return slice(min(2 * pairs.start, n), min(2 * pairs.stop, n))
