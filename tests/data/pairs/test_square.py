from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinobench.data.pairs.square import SquareInput

FITS = ("squash", "centre", "corner")


@given(
    fit=st.sampled_from(FITS), size=st.integers(8, 60), width=st.integers(1, 90), height=st.integers(1, 90),
)  # fmt: skip
def test_points_go_there_and_back(fit, size, width, height):
    square = SquareInput(size, fit, "nearest")
    assert square(Image.new("RGB", (width, height), (9, 9, 9))).shape == (3, size, size)
    points = np.random.default_rng(0).random((5, 2)) * (width, height)
    inside = square.placed(points, (width, height))
    assert (inside >= 0).all() and (inside <= size + 1).all()
    np.testing.assert_allclose(square.original(inside, (width, height)), points, atol=1e-9)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("sides", [(60, 30), (30, 60), (40, 40)])
def test_a_mark_is_where_its_point_is(fit, sides):
    image = np.full((sides[1], sides[0], 3), 100, np.uint8)
    image[18:24, 12:18] = (250, 10, 10)
    square = SquareInput(120, fit, "nearest")
    pixels = square(Image.fromarray(image))
    red = np.argwhere((pixels[0] == 250) & (pixels[1] == 10))
    found = (red.min(axis=0) + red.max(axis=0) + 1)[::-1] / 2
    np.testing.assert_allclose(found, square.placed(np.array([[15, 21]]), sides)[0], atol=1)


def test_what_is_padded_and_with_what():
    image = Image.new("RGB", (30, 20), (100, 100, 100))
    corner, centre = SquareInput(30, "corner", "nearest")(image)[0], SquareInput(30, "centre", "nearest")(image)[0]
    assert (corner[20:] == 255).all() and (corner[:20] == 100).all()
    assert (centre[:5] == 0).all() and (centre[25:] == 0).all() and (centre[5:25] == 100).all()
