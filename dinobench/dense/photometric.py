"""Photometric distortion of a training image: brightness, contrast, saturation and hue, each with probability 1/2.

(Liu et al. 2016, SSD, arXiv 1512.02325; mmsegmentation 0.30 `PhotoMetricDistortion`; facebookresearch/dinov3
`eval/segmentation/transforms.py`.)
"""

from __future__ import annotations

import cv2
import numpy as np

from dinobench.dense.resizing import Library

#: Brightness is added, on the scale 0..255; contrast and saturation are multiplied.
BRIGHTNESS = 32.0
FACTORS = (0.5, 1.5)
#: mmseg turns the hue by less than 18 of OpenCV's 180; DINOv3 hands (-.5, .5) to torchvision, which is all of the
#: circle, five times as far.
HUE_OPENCV, HUE_TORCHVISION = 18, 0.5
#: Luma that torchvision's saturation blends with (ITU-R 601-2).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def distorted(pixels: np.ndarray, library: Library, rng: np.random.Generator) -> np.ndarray:
    """RGB (H, W, 3) uint8 -> the same shape. Contrast comes second or last, either with probability 1/2.

    "opencv": saturation and hue in OpenCV's HSV as in mmseg. "pil": saturation blends with grey and hue goes round as
    in torchvision.
    """
    if rng.random() < 0.5:
        pixels = _linear(pixels, 1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast_last = rng.random() < 0.5
    if not contrast_last:
        pixels = _contrast(pixels, rng)
    if rng.random() < 0.5:
        pixels = _saturated(pixels, rng.uniform(*FACTORS), library)
    if rng.random() < 0.5:
        pixels = _turned(pixels, library, rng)
    return _contrast(pixels, rng) if contrast_last else pixels


def _contrast(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _linear(pixels, rng.uniform(*FACTORS), 0.0) if rng.random() < 0.5 else pixels


def _linear(pixels: np.ndarray, factor: float, offset: float) -> np.ndarray:
    return np.clip(pixels.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def _saturated(pixels: np.ndarray, factor: float, library: Library) -> np.ndarray:
    if library == "opencv":
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _linear(hsv[..., 1], factor, 0.0)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    colours = pixels.astype(np.float32)
    grey = (colours @ LUMA)[..., None]
    return np.clip(factor * colours + (1 - factor) * grey, 0, 255).astype(np.uint8)


def _turned(pixels: np.ndarray, library: Library, rng: np.random.Generator) -> np.ndarray:
    if library == "opencv":
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        turn = int(rng.integers(-HUE_OPENCV, HUE_OPENCV))
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)  # hue in 256 steps
    turn = int(255 * rng.uniform(-HUE_TORCHVISION, HUE_TORCHVISION))
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 256
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
