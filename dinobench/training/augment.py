"""Random views of a training image, from a generator that the caller seeds per image and pass.

What else is random in a training (erased boxes, mixed images, dropped blocks) is drawn per image from the same
generator, or per step from one seeded by the step's number. A training is then the same whatever the number of
processes, the micro-batches and the interruptions, and there is no generator whose state would have to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.nn import functional as F

from dinobench.data.transforms import INTERPOLATIONS, ImageTransform, resampling
from dinobench.errors import UserError
from dinobench.inputs import Channels
from dinobench.training.crop_box import crop_box
from dinobench.training.randaugment import RandAugment
from dinobench.training.random_erasing import ERASING, Erasing

#: In views of a scene: the crop's share of the image's area and its width to height, reach and chance of each change
#: of colour (vpariza/open-hummingbird-eval, its training transforms). An area above the image's own is drawn again.
SCENE_SCALE, SCENE_RATIO = (0.5, 2.0), (3 / 4, 4 / 3)
JITTER, CHANCE = 0.1, 0.5


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
        view = view.resize((self.size, self.size), resampling(self.interpolation))
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


def scene_view(
    image: Image.Image, labels: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random view of an image with its label map, as in-context segmentation's release draws it.

    RGB image and labels (H, W) uint8 -> (3, size, size) float32 on the scale 0..255 and (size, size) uint8.

    Colours change on the whole image, ahead of a crop that is resized bilinearly with antialiasing, without rounding to
    8 bits, as the release crops tensors; labels are resized by nearest.
    """
    changed = _jittered(image, rng)
    left, top, width, height = crop_box(image.width, image.height, SCENE_SCALE, SCENE_RATIO, rng)
    rows, columns = slice(top, top + height), slice(left, left + width)
    pixels = torch.from_numpy(np.asarray(changed)[rows, columns].transpose(2, 0, 1).astype(np.float32))
    resized = F.interpolate(pixels[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    return resized.numpy(), nearest(labels[rows, columns], size)


def nearest(labels: np.ndarray, size: int) -> np.ndarray:
    """Labels (H, W) uint8 -> (size, size) uint8 as torch resizes by nearest: by the upper left corner of each pixel.

    The release's labels are tensors; PIL, which looks at the centres, moves borders by half a pixel.
    """
    return F.interpolate(torch.from_numpy(np.array(labels))[None, None], (size, size))[0, 0].numpy()


def _jittered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        if rng.random() < CHANCE:
            image = enhance(image).enhance(rng.uniform(1 - JITTER, 1 + JITTER))
    if rng.random() < CHANCE:
        h, s, v = image.convert("HSV").split()
        turned = np.asarray(h).astype(np.int64) + round(rng.uniform(-JITTER, JITTER) * 255)
        image = Image.merge("HSV", (Image.fromarray((turned % 256).astype(np.uint8)), s, v)).convert("RGB")
    return image
