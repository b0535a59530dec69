"""Evaluation transforms: PIL image -> uint8 array in the worker, uint8 batch -> normalised float32 on the device.

Sending bytes and normalising on the device moves a quarter of the data and gives the same values as torchvision's
Resize, CenterCrop, ToTensor and Normalize in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from dinobench.errors import UserError

# Of ImageNet's training images, as used by torchvision's and DINO's published weights.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


#: Pixels of a side: one image of this size takes 0.8 GB, and no backbone sees a hundredth of it.
LARGEST_SIDE = 16_384


@dataclass(frozen=True)
class ImageTransform:
    """Resize, then crop the centre; the defaults are the evaluation transform of DINO (arXiv 2104.14294).

    `resize`: pixels of the shorter side, or (height, width) regardless of the aspect ratio, or None.
    `crop`: side of the square cut from the centre, padded with black where the image is smaller, or None.
    `mean`, `std`: per RGB channel, on the scale 0..1.
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | None = 224
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        if any(side is not None and not 1 <= side <= LARGEST_SIDE for side in (*sides, self.crop)):
            raise UserError(f"resize {self.resize} and crop {self.crop} must be between 1 and {LARGEST_SIDE:,} pixels")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> (3, H, W) uint8."""
        if self.resize is not None:
            height, width = resized_size(image.height, image.width, self.resize)
            if (width, height) != image.size:
                image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        if self.crop is not None:
            left, top = _offset(image.width, self.crop), _offset(image.height, self.crop)
            image = image.crop((left, top, left + self.crop, top + self.crop))  # zeros where it reaches outside
        return np.array(np.asarray(image).transpose(2, 0, 1), order="C")  # one copy, and writable as torch wants it

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 -> float32 of the same shape, on the same device."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=batch.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)


def resized_size(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after the resize; the longer side is rounded down as by torchvision.

    >>> resized_size(375, 500, 256), resized_size(375, 500, (320, 320))
    ((256, 341), (320, 320))
    """
    if isinstance(resize, tuple):
        return resize
    longer = int(resize * max(height, width) / min(height, width))
    return (resize, longer) if height <= width else (longer, resize)


def _offset(length: int, crop: int) -> int:
    """Where the crop starts; negative where the image is shorter than the crop (torchvision's roundings)."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)
