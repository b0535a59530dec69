"""Training crops of an image and its label map, from a generator that the loader seeds per image and pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dinobench.data.label_maps import IGNORED
from dinobench.data.transforms import ImageTransform
from dinobench.dense.photometric import distorted
from dinobench.dense.resizing import Library, rescaled, resize_labels, resize_pixels
from dinobench.inputs import Channels

#: Draws of a crop before one is taken as it is (mmsegmentation `RandomCrop`).
ATTEMPTS = 10


@dataclass(frozen=True)
class SegmentationCrop:
    """Resize at random, cut a square that is not nearly all of one class, flip, distort the colours, fill up.

    `side`: shorter side in pixels, times a factor drawn from `scale`; `longest` is for the longer one, times the same
    factor (0: any). `most`: a crop is drawn again while one class has at least this share of its labelled pixels.
    `mean`, `std`: as of an `ImageTransform`.
    """

    side: int = 512
    longest: int = 0
    scale: tuple[float, float] = (0.5, 2.0)
    crop: int = 512
    most: float = 0.75
    flip: float = 0.5
    distort: bool = True
    library: Library = "pil"
    mean: Channels | None = None
    std: Channels | None = None

    def __call__(self, image: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """RGB image with its labels as alpha, or (H, W, 4) uint8 -> pixels (3, crop, crop), labels (crop, crop) uint8.

        Third, what of them is image: height and width (2,) int64 from the top left. The rest is to be 0 once normalised
        and has no label.
        """
        both = np.asarray(image)
        factor = rng.uniform(*self.scale)
        shorter, longest = int(self.side * factor), int(self.longest * factor)
        size = rescaled(both.shape[0], both.shape[1], shorter, longest)
        # Colours and labels apart: Pillow would weigh colours by an alpha channel.
        pixels = resize_pixels(np.ascontiguousarray(both[..., :3]), size, self.library)
        labels = resize_labels(np.ascontiguousarray(both[..., 3]), size, self.library)
        box = self._box(labels, rng)
        pixels, labels = pixels[box], labels[box]
        if rng.random() < self.flip:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        if self.distort:
            pixels = distorted(np.ascontiguousarray(pixels), self.library, rng)
        height, width = labels.shape
        padded = np.zeros((3, self.crop, self.crop), np.uint8)
        padded[:, :height, :width] = pixels.transpose(2, 0, 1)
        truth = np.full((self.crop, self.crop), IGNORED, np.uint8)
        truth[:height, :width] = labels
        return padded, truth, np.array([height, width])

    def _box(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        for attempt in range(ATTEMPTS + 1):
            rows, columns = (_span(length, self.crop, rng) for length in labels.shape)
            if self.most >= 1 or attempt == ATTEMPTS:
                break
            counts = np.bincount(labels[rows, columns].ravel(), minlength=256)[:IGNORED]
            if (counts > 0).sum() > 1 and counts.max() < self.most * counts.sum():
                break
        return rows, columns

    def normalise(self, pixels: torch.Tensor, extents: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 and the images' heights and widths in it (B, 2) -> float32, 0 outside of the images."""
        x = ImageTransform(mean=self.mean, std=self.std).normalise(pixels)
        for one, (height, width) in zip(x, extents.tolist(), strict=True):
            one[:, height:] = 0
            one[:, :, width:] = 0
        return x


def _span(length: int, crop: int, rng: np.random.Generator) -> slice:
    first = int(rng.integers(0, max(length - crop, 0) + 1))
    return slice(first, first + min(crop, length))
