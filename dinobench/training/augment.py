"""Random views of a training image, from a generator that the caller seeds per image and pass.

What else is random in a training (erased boxes, mixed images, dropped blocks) is drawn per image from the same
generator, or per step from one seeded by the step's number. A training is then the same whatever the number of
processes, the micro-batches and the interruptions, and there is no generator whose state would have to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from dinobench.data.transforms import INTERPOLATIONS, ImageTransform
from dinobench.errors import UserError
from dinobench.inputs import Channels
from dinobench.training.crop_box import crop_box
from dinobench.training.randaugment import RandAugment
from dinobench.training.random_erasing import ERASING, Erasing


@dataclass(frozen=True)
class CropAndFlip:
    """RandomResizedCrop and horizontal flip (Szegedy et al. 2015, arXiv 1409.4842, with torchvision's defaults).

    `size`: side of the view in pixels. `scale`: the box's share of the image's area. `ratio`: its width to height.
    PIL's resize is antialiased, which is what the reference training met. `mean`, `std`: as of an `ImageTransform`.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flip: float = 0.5
    mean: Channels | None = None
    std: Channels | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
        if self.size < 1 or not 0 < self.scale[0] <= self.scale[1] or not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"a crop of size {self.size}, scale {self.scale} and ratio {self.ratio} cannot be drawn")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """RGB image -> (3, size, size) uint8."""
        left, top, width, height = crop_box(image.width, image.height, self.scale, self.ratio, rng)
        # Cut first: a resize with a box would let the filter see pixels outside of it.
        view = image.crop((left, top, left + width, top + height))
        view = view.resize((self.size, self.size), INTERPOLATIONS[self.interpolation])
        pixels = np.asarray(view)
        if rng.random() < self.flip:
            pixels = pixels[:, ::-1]
        return np.array(pixels.transpose(2, 0, 1), order="C")

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 -> float32 of the same shape, on the same device."""
        return ImageTransform(mean=self.mean, std=self.std).normalise(batch)


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
