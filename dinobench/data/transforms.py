"""Evaluation transforms: PIL image -> uint8 array in the worker, uint8 batch -> normalised float32 on the device.

Sending bytes and normalising on the device moves a quarter of the data and gives the same values as torchvision's
Resize, CenterCrop, ToTensor and Normalize in a row. By what they are normalised is the model's own affair, unless the
user or a protocol's profile decides it (`for_backbone`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from dinobench import lazy
from dinobench.errors import UserError
from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD, Channels, check_channels, input_of
from dinobench.types import setting

if TYPE_CHECKING:
    from dinobench.types import Backbone, FeatureRequest, ImageSplit

T = TypeVar("T")

with lazy.imports():
    import numpy as np
    import torch
    from PIL import Image

#: Names of Pillow's resampling filters.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

#: Pixels of a side: one image of this size takes 0.8 GB, and no backbone sees a hundredth of it.
LARGEST_SIDE = 16_384


def resampling(interpolation: str) -> Image.Resampling:
    """Pillow's filter of this name, one of `INTERPOLATIONS`."""
    return Image.Resampling[interpolation.upper()]


@dataclass(frozen=True)
class ImageTransform:
    """Resize, then crop the centre; the defaults are the evaluation transform of DINO (arXiv 2104.14294).

    `resize`: pixels of the shorter side, or (height, width) regardless of the aspect ratio, or None.
    `crop`: side of the square cut from the centre, padded with black where the image is smaller, or None.
    `mean`, `std`: per RGB channel, on the scale 0..1. None is the model's own, which `for_backbone` puts in its place;
    where nobody does, ImageNet's.
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | None = 224
    interpolation: str = "bicubic"
    mean: Channels | None = None
    std: Channels | None = None

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
                image = image.resize((width, height), resampling(self.interpolation))
        if self.crop is not None:
            left, top = _offset(image.width, self.crop), _offset(image.height, self.crop)
            image = image.crop((left, top, left + self.crop, top + self.crop))  # zeros where it reaches outside
        return np.array(np.asarray(image).transpose(2, 0, 1), order="C")  # one copy, and writable as torch wants it

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 -> float32 of the same shape, on the same device."""
        return (
            batch.to(torch.float32)
            .div_(255)
            .sub_(_channels(self.mean or IMAGENET_MEAN, batch.device))
            .div_(_channels(self.std or IMAGENET_STD, batch.device))
        )


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Values per channel as (3, 1, 1) float32, moved to the device once and not with every batch."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


@dataclass(frozen=True)
class Input:
    """The settings `mean` and `std`, a group that every protocol's Config has."""

    mean: Channels | None = setting(
        None, "mean subtracted per RGB channel, on the scale 0..1; none: the model's own input", "ours", added=True
    )
    std: Channels | None = setting(
        None, "standard deviation divided by per RGB channel; none: the model's own input", "ours", added=True
    )

    def __post_init__(self) -> None:
        check_channels(self.mean, self.std)


def for_backbone(transform: T, backbone: Backbone) -> T:
    """`transform`, a dataclass with `mean` and `std`, with the backbone's own in the place of each that is None.

    What has no such fields is returned as it is: its normalisation is its own.
    """
    either: Any = transform
    if not {"mean", "std"} <= getattr(either, "__dataclass_fields__", {}).keys():
        return transform
    own = input_of(getattr(backbone, "info", None))
    replaced: T = dataclasses.replace(
        either,
        mean=own.mean if either.mean is None else either.mean,
        std=own.std if either.std is None else either.std,
    )
    return replaced


def for_split(transform: T, split: ImageSplit) -> T:
    """`transform` for the images of a split; those that are `cropped` already are brought to the crop's size at most.

    So images of 224 pixels are taken as they are where 224 are cut out of others.
    """
    if not getattr(split, "cropped", False) or not isinstance(transform, ImageTransform):
        return transform
    return dataclasses.replace(transform, resize=transform.crop)


def fitted(request: FeatureRequest, backbone: Backbone, split: ImageSplit) -> FeatureRequest:
    """`request` with its transform as it is for the backbone and the images: `for_backbone`, then `for_split`."""
    return dataclasses.replace(request, transform=for_split(for_backbone(request.transform, backbone), split))


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
