"""Drawn shapes with a class for every pixel: background and the five kinds of shape, exact to the pixel."""

from __future__ import annotations

import numpy as np

from dinobench.data.embedded.shapes import KINDS, SIDE, draw, grain, scatter
from dinobench.data.fingerprint import of_array
from dinobench.data.label_maps import ArrayLabelMaps, LabelMapSet, assemble, numbered

NAME = "shape-scenes"
TRAIN, TEST = 24, 12


def scenes(name: str = "shapes") -> LabelMapSet:
    """The 24 images to learn from and the 12 to score on."""
    train, test = _split("train", 0, TRAIN), _split("test", TRAIN, TEST)
    classes = ("background", *KINDS)
    return assemble(name, NAME, classes, train, test, table=numbered(len(classes)), background=0)


def _split(name: str, first: int, count: int) -> ArrayLabelMaps:
    images, maps = [], []
    for i in range(first, first + count):
        rng = np.random.default_rng([2306, i])
        shapes = scatter(rng, 2 + i % 3, SIDE, SIDE)
        image, instances = draw(shapes, SIDE, SIDE, grain(rng, SIDE, SIDE))
        images.append(image)
        maps.append(np.array([0, *(shape.kind + 1 for shape in shapes)], np.uint8)[instances])
    pixels, labels = np.stack(images), np.stack(maps)
    ids = tuple(f"shapes/{i:02d}" for i in range(first, first + count))
    identity = of_array(ids, np.concatenate([pixels, labels[..., None]], axis=-1))
    return ArrayLabelMaps(name, ids, pixels, labels, identity)
