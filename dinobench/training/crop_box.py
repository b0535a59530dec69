"""The box of a random crop, as torchvision's RandomResizedCrop draws it: for one image, and for many at once."""

from __future__ import annotations

import math

import numpy as np

#: Draws of a box before the centre is taken (torchvision `RandomResizedCrop.get_params`).
ATTEMPTS = 10


def crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random box (left, top, width, height) inside an image: area uniform, log of the aspect ratio uniform.

    When no draw of `ATTEMPTS` fits, the largest centred box whose ratio is allowed.
    """
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = min(width, round(height * ratio[1]))
    return (width - w) // 2, (height - h) // 2, w, h


def crop_boxes(
    areas: np.ndarray,
    aspects: np.ndarray,
    places: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """`crop_box` for n images, from numbers in 0..1 that were drawn before: (n, 4) int64 of top, left, height, width.

    `areas` and `aspects` (n, ATTEMPTS) are those of the attempts, `places` (n, 2) puts a box that fits between top and
    bottom, left and right. All are given though few are needed, where `crop_box` draws until one fits: the numbers of
    pretraining's views are a function of seed, pass and image, whatever happens to other images of the batch.
    """
    tall, wide = heights[:, None], widths[:, None]
    area = tall * wide * (scale[0] + areas * (scale[1] - scale[0]))
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + aspects * (high - low))
    h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (h > 0) & (h <= tall) & (w > 0) & (w <= wide)
    pick = np.arange(len(areas)), fits.argmax(1)  # the first that fits
    fitting = fits[pick]
    h = np.where(fitting, h[pick], np.minimum(heights, np.rint(widths / ratio[0])))
    w = np.where(fitting, w[pick], np.minimum(widths, np.rint(heights * ratio[1])))
    room_y, room_x = heights - h, widths - w
    top = np.where(fitting, np.floor(places[:, 0] * (room_y + 1)), room_y // 2)
    left = np.where(fitting, np.floor(places[:, 1] * (room_x + 1)), room_x // 2)
    return np.stack([top, left, h, w], axis=1).astype(np.int64)
