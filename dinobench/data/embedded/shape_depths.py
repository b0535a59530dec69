"""Drawn shapes at known distances: images with an exact depth for every pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dinobench.data.depth_maps import ArrayDepths, Convention, DepthSet
from dinobench.data.embedded.shapes import draw, grain, scatter
from dinobench.hashing import digest

NAME = "shape-depths"
HEIGHT, WIDTH = 192, 256
TRAIN, TEST = 48, 24
#: Millimetres: the ground at the image's upper and lower edge, and where shapes are, always before it.
FAR, NEAR, FIRST, LAST = 8000, 2000, 700, 2000
#: Depth at which haze has taken half of a colour, and the haze's grey.
HALF_HAZE, HAZE = 4000, 200
#: Millimetres times a shape's radius as a share of what `scatter` draws: what is twice as far looks half as large.
SIZE = 1200
CONVENTION = Convention(10.0, train_crop=(176, 224))


def scenes(name: str = "shapes") -> DepthSet:
    """The two splits."""
    train, test = _split("train", 0, TRAIN), _split("test", TRAIN, TEST)
    fingerprint = digest(train.fingerprint, test.fingerprint, CONVENTION)
    return DepthSet(name, NAME, train, test, CONVENTION, fingerprint)


def _split(name: str, first: int, count: int) -> ArrayDepths:
    drawn = [scene(number) for number in range(first, first + count)]
    pixels, depths = (np.stack(part) for part in zip(*drawn, strict=True))
    return ArrayDepths(name, tuple(f"shapes/{first + i:02d}" for i in range(count)), pixels, depths)


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and its depth (H, W) uint16 in millimetres. Integers only, so that every machine draws the same.

    The ground rises to the upper edge; shapes face the viewer, each at one depth, the near ones large and in front; all
    colours fade into haze with distance.
    """
    rng = np.random.default_rng([2304, number])
    shapes = scatter(rng, 2 + number % 3, HEIGHT, WIDTH)
    distances = sorted(rng.integers(FIRST, LAST, len(shapes)).tolist(), reverse=True)
    standing = [replace(s, radius=s.radius * SIZE / d) for s, d in zip(shapes, distances, strict=True)]
    image, labels = draw(standing, HEIGHT, WIDTH, grain(rng, HEIGHT, WIDTH))
    rows = np.arange(HEIGHT)[:, None] + np.zeros((1, WIDTH), np.int64)
    depth = FAR - (FAR - NEAR) * rows // (HEIGHT - 1)
    depth = np.where(labels > 0, np.array([0, *distances])[labels], depth)
    share = (256 * depth // (depth + HALF_HAZE))[..., None]
    return ((image * (256 - share) + HAZE * share) // 256).astype(np.uint8), depth.astype(np.uint16)
