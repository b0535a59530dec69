"""Drawn data: the same everywhere, with masks that are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dinobench.data.embedded import shapes
from dinobench.data.embedded.shapes import KINDS, Shape, draw


def test_images_are_the_same_every_time():
    a, b = shapes.images(), shapes.images("again")
    assert a.fingerprint == b.fingerprint and b.name == "again"
    np.testing.assert_array_equal(a.pixels, b.pixels)


def test_every_image_has_its_objects():
    data = shapes.images()
    for i, image_id in enumerate(data.ids("instances")):
        masks = data.masks(image_id, "instances")
        assert masks.ids == tuple(range(1, 3 + i % 3))
        assert masks.masks.any(axis=(1, 2)).all() and masks.masks.sum(0).max() == 1
        classes = data.masks(image_id, "classes")
        assert set(classes.ids) == {k + 1 for k in data.kinds[i]}
        assert (classes.masks.any(0) == masks.masks.any(0)).all()
        assert data.load(image_id).size == (shapes.SIDE, shapes.SIDE)
    assert {k for kinds in data.kinds for k in kinds} == set(range(len(KINDS)))


@pytest.mark.parametrize(
    ("kind", "area"), [("disc", math.pi), ("square", 1.7**2), ("ring", math.pi * 0.75), ("cross", 4 * 0.66 - 0.66**2)]
)
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_areas_are_those_of_the_shapes(kind, area, angle):
    shape = Shape(KINDS.index(kind), 0, 100, 100, 60, angle)
    assert shape.inside(200, 200).sum() == pytest.approx(area * 60**2, rel=0.01)


def test_masks_are_exact_and_later_shapes_in_front():
    back, front = Shape(1, 0, 20, 20, 12), Shape(0, 1, 26, 20, 10)
    image, labels = draw([back, front], 40, 48, np.zeros((40, 48), int))
    assert (labels[front.inside(40, 48)] == 2).all()
    plain, _ = draw([], 40, 48, np.zeros((40, 48), int))
    np.testing.assert_array_equal((image != plain).any(-1), labels > 0)
