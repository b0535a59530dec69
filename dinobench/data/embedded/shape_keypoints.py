"""Drawn shapes whose corners are known to a hundredth of a pixel: pairs of images for the correspondence protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dinobench.data.embedded.shapes import COLORS, KINDS, NAME, Shape, draw, grain
from dinobench.data.fingerprint import of_array
from dinobench.data.pairs.keypoints import PointPair

#: Points of each kind in its own frame of unit radius, a tenth inside of its outline, and its centre.
POINTS = {
    "disc": [(0.9, 0), (0, 0.9), (-0.9, 0), (0, -0.9), (0, 0)],
    "square": [(0.76, 0.76), (-0.76, 0.76), (-0.76, -0.76), (0.76, -0.76), (0, 0)],
    "triangle": [(0, -0.8), (0.74, 0.52), (-0.74, 0.52), (0, 0)],
    "cross": [(0.9, 0), (0, 0.9), (-0.9, 0), (0, -0.9), (0, 0)],
    "ring": [(0.75, 0), (0, 0.75), (-0.75, 0), (0, -0.75)],
}
IMAGES = 6  # of each kind
#: (height, width) of images in turn, so that sides and aspects differ.
SIZES = ((192, 192), (160, 208), (208, 176))
#: Turns in twentieths of a radian, apart enough from a quarter that corners keep their names.
TURN = 7


@dataclass(frozen=True, eq=False)
class ShapePairs:
    """Pairs of images in memory; `pixels` are (H, W, 3) uint8 by image."""

    name: str
    layout: str
    pixels: dict[str, np.ndarray]
    pairs: tuple[PointPair, ...]
    fingerprint: str

    def load(self, image_id: str) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.pixels[image_id])


def pairs(name: str = NAME) -> ShapePairs:
    """Each image of a kind with the next two: 60 pairs, whose viewpoints differ by the turn between them."""
    pixels: dict[str, np.ndarray] = {}
    shapes: dict[str, Shape] = {}
    found = []
    for kind, word in enumerate(KINDS):
        names = [f"{word}/{i:02d}" for i in range(IMAGES)]
        for i, image in enumerate(names):
            rng = np.random.default_rng([1908, kind, i])
            height, width = SIZES[i % len(SIZES)]
            shapes[image] = _placed(rng, kind, height, width)
            pixels[image] = draw([shapes[image]], height, width, grain(rng, height, width))[0]
        for i in range(IMAGES):
            for other in (names[(i + 1) % IMAGES], names[(i + 2) % IMAGES]):
                found.append(_pair(word, names[i], other, pixels, shapes))
    told = [f"{p.id} {p.source_points.tolist()} {p.target_points.tolist()} {p.target_box.tolist()}" for p in found]
    joined = np.concatenate([pixels[image].ravel() for image in sorted(pixels)])
    return ShapePairs(name, NAME, pixels, tuple(found), of_array(told, joined))


def _placed(rng: np.random.Generator, kind: int, height: int, width: int) -> Shape:
    """A shape that lies within the image as a whole."""
    radius = int(rng.integers(36, 64))
    x, y = (int(rng.integers(radius + 4, side - radius - 4)) for side in (width, height))
    return Shape(kind, int(rng.integers(len(COLORS))), x, y, radius, int(rng.integers(-TURN, TURN + 1)) / 20)


def _pair(kind: str, source: str, target: str, pixels: dict[str, np.ndarray], shapes: dict[str, Shape]) -> PointPair:
    turn = abs(shapes[source].angle - shapes[target].angle)
    inside = np.argwhere(shapes[target].inside(*pixels[target].shape[:2]))
    (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
    (height, width), (target_height, target_width) = pixels[source].shape[:2], pixels[target].shape[:2]
    return PointPair(
        f"{source}-{target.partition('/')[2]}", kind, source, target, (width, height), (target_width, target_height),
        _points(shapes[source]), _points(shapes[target]), np.array([left, top, right, bottom], np.float64),
        tuple(map(str, range(len(POINTS[kind])))), sum(turn >= bound for bound in (0.15, 0.35)),
    )  # fmt: skip


def _points(shape: Shape) -> np.ndarray:
    """(K, 2) float64: the pixels that the shape's points lie in, as people would mark them."""
    c, s = round(math.cos(shape.angle), 6), round(math.sin(shape.angle), 6)
    own = np.array(POINTS[KINDS[shape.kind]], np.float64)
    turned = np.stack([c * own[:, 0] - s * own[:, 1], s * own[:, 0] + c * own[:, 1]], axis=1)
    return np.floor(np.array([shape.x, shape.y]) + shape.radius * turned)
