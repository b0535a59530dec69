"""The two ways in which the releases resize images and label maps: OpenCV's (mmcv) and Pillow's (DINOv3)."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

#: OpenCV's bilinear does not antialias and its nearest takes the pixel at floor(i * scale); Pillow's bilinear widens
#: its filter where it shrinks, and its nearest takes the pixel under the centre. The two give different inputs.
Library = Literal["opencv", "pil"]


def rescaled(height: int, width: int, shorter: int, longest: int = 0) -> tuple[int, int]:
    """(height, width) whose shorter side is `shorter` pixels and whose longer one at most `longest` (0: any).

    Sides are rounded to the nearest pixel, halves up (mmcv `rescale_size`).

    >>> rescaled(366, 500, 256), rescaled(100, 900, 512, 2048)
    ((256, 350), (228, 2048))
    """
    scale = shorter / min(height, width)
    if longest:
        scale = min(scale, longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_pixels(pixels: np.ndarray, size: tuple[int, int], library: Library) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3) uint8, bilinear."""
    if pixels.shape[:2] == size:
        return pixels
    if library == "opencv":
        return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_labels(labels: np.ndarray, size: tuple[int, int], library: Library) -> np.ndarray:
    """(H, W) uint8 -> (h, w) uint8, nearest."""
    if labels.shape == size:
        return labels
    if library == "opencv":
        return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


def thinned(labels: Any, stride: int) -> Any:
    """Array or tensor (..., H, W) -> the middle one of every `stride` pixels in rows and columns.

    >>> thinned(np.arange(64).reshape(8, 8), 4).tolist()
    [[18, 22], [50, 54]]
    """
    middle = slice(stride // 2, None, stride)
    return labels[..., middle, middle]
