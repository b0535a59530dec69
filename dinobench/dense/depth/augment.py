"""Training views of an image with its depth, as the NYU and KITTI recipes of monocular depth have them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dinobench.errors import UserError

#: Rows and columns of 480 x 640 that NYU's training keeps, which are without the white border: first, one past the
#: last. `NYUCrop` of zhyever/Monocular-Depth-Estimation-Toolbox; scaled to other sizes as by facebookresearch/dinov3.
NYU_INSIDE, NYU_SIZE = (45, 472, 43, 608), (480, 640)


@dataclass(frozen=True)
class DepthView:
    """Cut the border, rotate, mirror, crop, vary the colours, in this order.

    `crop` is (height, width); `rotate` degrees either way for half of the images; `flip` and `colour` are
    probabilities. Colours are raised to a power of .9 to 1.1 *on the scale 0..255*, which the releases do and which
    moves brightness by a third; then multiplied by 1 -+ `brightness` and, per channel, by .9 to 1.1.
    (`RandomRotate`, `RandomFlip`, `RandomCrop`, `ColorAug` of the toolbox and of facebookresearch/dinov3
    `eval/depth/transforms.py`; both resample the image bilinearly and depth by the nearest, zeros from outside. Here
    OpenCV rotates for both.)
    """

    crop: tuple[int, int]
    border: bool = False
    rotate: float = 2.5
    flip: float = 0.5
    colour: float = 0.5
    gamma: float = 0.1
    brightness: float = 0.1
    tint: float = 0.1

    def __call__(
        self, pixels: np.ndarray, depth: np.ndarray, rng: np.random.Generator, name: str = "an image"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and (H, W) float32 -> (3, h, w) float32 on the scale 0..255, and (1, h, w) float32.

        Raises UserError, naming the image, where it is smaller than the crop.
        """
        self.require_room(depth, name)
        if self.border:
            pixels, depth = (without_border(x) for x in (pixels, depth))
        if self.rotate and rng.random() < 0.5:
            pixels, depth = _rotated(pixels, depth, float(rng.uniform(-self.rotate, self.rotate)))
        if rng.random() < self.flip:
            pixels, depth = pixels[:, ::-1], depth[:, ::-1]
        (height, width), (rows, columns) = depth.shape, self.crop
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        window = slice(top, top + rows), slice(left, left + columns)
        image = pixels[window].astype(np.float32)
        if rng.random() < self.colour:
            image = self._coloured(image, rng)
        return np.ascontiguousarray(image.transpose(2, 0, 1)), np.ascontiguousarray(depth[window])[None]

    def require_room(self, depth: np.ndarray, name: str) -> None:
        """Raises UserError, naming the image, where what is used of depth (H, W) is smaller than the crop."""
        (height, width), (rows, columns) = (without_border(depth) if self.border else depth).shape, self.crop
        if height < rows or width < columns:
            raise UserError(
                f"{name}: {width} x {height} pixels to train on, fewer than the crop of {columns} x {rows}; "
                f"use --set train_crop={min(height, rows)},{min(width, columns)}"
            )

    def _coloured(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        power = rng.uniform(1 - self.gamma, 1 + self.gamma)
        factors = rng.uniform(1 - self.brightness, 1 + self.brightness) * rng.uniform(1 - self.tint, 1 + self.tint, 3)
        # 256 powers, not one per pixel: rotation leaves whole numbers
        table = np.arange(256, dtype=np.float64) ** power
        return (table[image.astype(np.uint8)] * factors).clip(0, 255).astype(np.float32)


def without_border(x: np.ndarray) -> np.ndarray:
    """(H, W, ...) without NYU's border, which is scaled to the size.

    >>> without_border(np.zeros((480, 640))).shape
    (427, 565)
    """
    sides = (NYU_SIZE[0], x.shape[0]), (NYU_SIZE[0], x.shape[0]), (NYU_SIZE[1], x.shape[1]), (NYU_SIZE[1], x.shape[1])
    top, bottom, left, right = (int(e / n * side) for e, (n, side) in zip(NYU_INSIDE, sides, strict=True))
    return x[top:bottom, left:right]


def _rotated(pixels: np.ndarray, depth: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = depth.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    image = cv2.warpAffine(np.ascontiguousarray(pixels), turn, (width, height), flags=cv2.INTER_LINEAR)
    return image, cv2.warpAffine(np.ascontiguousarray(depth), turn, (width, height), flags=cv2.INTER_NEAREST)
