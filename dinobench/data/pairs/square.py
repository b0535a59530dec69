"""Images brought to a square, and points with them, as the programs that score correspondence do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from dinobench.data.transforms import ImageTransform, resampling
from dinobench.inputs import Channels

if TYPE_CHECKING:
    import torch

#: What pads to the right and below: white, as in mbanani/probe3d, evals/datasets/spair.py.
WHITE = 255


@dataclass(frozen=True)
class SquareInput:
    """An image as a square of `size` pixels.

    `fit` "squash" stretches it regardless of its sides. "centre" brings the longer side to `size` and pads the shorter
    with black on both ends (Junyi42/sd-dino). "corner" pads with white to the right or below, then resizes (Probe3D).
    `mean` and `std` are as in `ImageTransform`.
    """

    size: int
    fit: Literal["squash", "centre", "corner"] = "squash"
    interpolation: str = "bilinear"
    mean: Channels | None = None
    std: Channels | None = None

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> (3, size, size) uint8."""
        if self.fit == "corner":
            image = _padded(image, max(image.size), (0, 0), WHITE)
        if self.fit == "centre":
            inner, offset = self._centred(image.size)
            image = _padded(image.resize(inner, resampling(self.interpolation)), self.size, offset, 0)
        return ImageTransform((self.size, self.size), None, self.interpolation)(image)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) uint8 -> float32 of the same shape, on the same device."""
        return ImageTransform(mean=self.mean, std=self.std).normalise(batch)

    def placed(self, points: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """Points (K, 2), x and y in an image of `image_size` (width, height), -> (K, 2) in pixels of the square."""
        scale, offset = self._map(image_size)
        return points * scale + offset

    def original(self, points: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """The way back of `placed`."""
        scale, offset = self._map(image_size)
        return (points - offset) / scale

    def _map(self, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        if self.fit == "squash":
            return self.size / np.array(image_size, np.float64), np.zeros(2)
        scale = np.full(2, self.size / max(image_size))
        return scale, np.array(self._centred(image_size)[1] if self.fit == "centre" else (0, 0), np.float64)

    def _centred(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """((width, height) after the resize, (left, top) of it in the square)."""
        longer = max(image_size)
        inner = [max(1, int(np.around(self.size * side / longer))) for side in image_size]
        return (inner[0], inner[1]), ((self.size - inner[0]) // 2, (self.size - inner[1]) // 2)


def _padded(image: Image.Image, side: int, at: tuple[int, int], value: int) -> Image.Image:
    canvas = Image.new("RGB", (side, side), (value, value, value))
    canvas.paste(image, at)
    return canvas
