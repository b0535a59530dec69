"""A small set of salient objects."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dinobench.data.layouts.saliency import PAIRS


def make_salient(path, pair=PAIRS[0]):
    """Three images of 30 x 20 pixels with their masks, one in grey shades and one empty, below `path`."""
    images, masks = (path / folder for folder in pair[:2])
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).integers(0, 90, (20, 30, 3), np.uint8)
        mask = np.zeros((20, 30), np.uint8)
        if number < 3:
            pixels[4:12, 5 * number : 5 * number + 10] = 200, 180, 30
            mask[4:12, 5 * number : 5 * number + 10] = 255 if number == 1 else np.arange(1, 11) * 25
        Image.fromarray(pixels).save(images / f"{number:04d}.jpg")
        Image.fromarray(mask).save(masks / f"{number:04d}.png")
    return path
