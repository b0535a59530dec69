"""Drawn shapes with exact masks, made when asked for: images for the attention protocol, videos for DAVIS propagation.

Integer textures and comparisons only, so that every machine draws the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from dinobench.data.boxes import BoxSet, BoxSplits, boxes_of_masks
from dinobench.data.fingerprint import of_array
from dinobench.data.masks import Masks, from_labels

NAME = "shapes"
KINDS = ("disc", "square", "triangle", "cross", "ring")
COLORS = np.array(
    [[214, 69, 65], [65, 131, 215], [245, 171, 53], [38, 166, 91], [155, 89, 182], [54, 215, 183]], np.uint8
)
SIDE, COUNT = 192, 24


@dataclass(frozen=True)
class Shape:
    """One shape: centre and radius in pixels, angle in radians, `kind` and `color` as indices."""

    kind: int
    color: int
    x: float
    y: float
    radius: float
    angle: float = 0.0

    def frame(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Along and across the shape in its radius, of every pixel's middle: two of (H, W)."""
        rows, columns = np.mgrid[:height, :width]
        c, s = round(math.cos(self.angle), 6), round(math.sin(self.angle), 6)
        dx, dy = columns + 0.5 - self.x, rows + 0.5 - self.y
        return (c * dx + s * dy) / self.radius, (c * dy - s * dx) / self.radius

    def inside(self, height: int, width: int) -> np.ndarray:
        """(H, W) bool."""
        u, v = self.frame(height, width)
        distance = u * u + v * v
        return {
            "disc": distance <= 1,
            "square": np.maximum(abs(u), abs(v)) <= 0.85,
            "triangle": (v <= 0.6) & (v >= 1.8 * abs(u) - 1),
            "cross": (np.minimum(abs(u), abs(v)) <= 0.33) & (np.maximum(abs(u), abs(v)) <= 1),
            "ring": (distance <= 1) & (distance >= 0.25),
        }[KINDS[self.kind]]


def draw(shapes: Sequence[Shape], height: int, width: int, grain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shapes, later ones in front -> (image (H, W, 3) uint8, labels (H, W) uint8, 1 for the first shape).

    `grain` (H, W) int of -12..12 is added everywhere, so that no two patches are alike; stripes and a sloping
    background give patches something to be recognised by.
    """
    rows, columns = np.mgrid[:height, :width]
    slope = 40 * rows // height + 30 * columns // width
    image = np.stack([90 + slope, 100 + slope, 110 + slope // 2], axis=-1)
    labels = np.zeros((height, width), np.uint8)
    for label, shape in enumerate(shapes, 1):
        inside = shape.inside(height, width)
        # stripes move with the shape: its own frame of reference, without its rotation
        along = (columns - int(shape.x)) + (shape.kind - 2) * (rows - int(shape.y))
        stripes = np.where(along // 6 % 2, 0, 28)
        image[inside] = COLORS[shape.color].astype(int) - stripes[inside, None]
        labels[inside] = label
    return np.clip(image + grain[..., None], 0, 255).astype(np.uint8), labels


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) int64 of -12..12."""
    return rng.integers(-12, 13, (height, width))


@dataclass(frozen=True, eq=False)
class ShapeImages:
    """Images with their masks in memory: `pixels` (n, H, W, 3) uint8, `labels` (n, H, W) uint8 per instance."""

    name: str
    layout: str
    pixels: np.ndarray
    labels: np.ndarray
    kinds: tuple[tuple[int, ...], ...]
    fingerprint: str

    def ids(self, kind: str) -> list[str]:
        """One name per image, whatever the kind of masks."""
        return [f"shapes/{i:02d}" for i in range(len(self.pixels))]

    def load(self, image_id: str) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.pixels[_number(image_id)])

    def masks(self, image_id: str, kind: str) -> Masks:
        """The visible part of each shape, or of all shapes of one kind together."""
        i = _number(image_id)
        if kind == "instances":
            return from_labels(self.labels[i])
        classes = np.array([0, *(k + 1 for k in self.kinds[i])], np.uint8)
        return from_labels(classes[self.labels[i]])


def images(name: str = NAME) -> ShapeImages:
    """The 24 images."""
    pixels, labels, kinds = [], [], []
    for i in range(COUNT):
        rng = np.random.default_rng([2104, i])
        shapes = scatter(rng, 2 + i % 3, SIDE, SIDE)
        image, label = draw(shapes, SIDE, SIDE, grain(rng, SIDE, SIDE))
        pixels.append(image)
        labels.append(label)
        kinds.append(tuple(s.kind for s in shapes))
    stacked, masks = np.stack(pixels), np.stack(labels)
    joined = np.concatenate([stacked, masks[..., None]], axis=-1)
    fingerprint = of_array([f"{i} {k}" for i, k in enumerate(kinds)], joined)
    return ShapeImages(name, NAME, stacked, masks, tuple(kinds), fingerprint)


def boxes(name: str = NAME) -> BoxSplits:
    """The images with the box around what is seen of each shape."""
    return BoxSplits(name, NAME, {"all": partial(_boxed, name)}, "all")


def _boxed(name: str) -> BoxSet:
    drawn = images(name)
    ids = drawn.ids("instances")
    found = [boxes_of_masks(drawn.masks(image_id, "instances").masks) for image_id in ids]
    return BoxSet(name, NAME, ids, found, None, drawn.load, drawn.fingerprint)


def scatter(rng: np.random.Generator, count: int, height: int, width: int) -> list[Shape]:
    """Shapes of different colours one to a quarter of the image, so that none hides another."""
    quarters, colors = rng.permutation(4)[:count], rng.permutation(len(COLORS))
    shapes = []
    for quarter, color in zip(quarters.tolist(), colors.tolist(), strict=False):
        radius = min(height, width) * int(rng.integers(13, 22)) / 100
        x, y = (width * (1 + 2 * (quarter % 2)) / 4, height * (1 + 2 * (quarter // 2)) / 4)
        shift = rng.integers(-6, 7, 2) * min(height, width) / 200
        kind, angle = int(rng.integers(len(KINDS))), int(rng.integers(0, 60)) / 20
        shapes.append(Shape(kind, color, x + float(shift[0]), y + float(shift[1]), radius, angle))
    return shapes


def moved(shape: Shape, dx: float, dy: float, turn: float, growth: float) -> Shape:
    """The shape a step later."""
    return replace(shape, x=shape.x + dx, y=shape.y + dy, angle=shape.angle + turn, radius=shape.radius * growth)


def _number(image_id: str) -> int:
    return int(image_id.rsplit("/", 1)[1])
