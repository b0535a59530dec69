import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.dense.depth.augment import DepthView, without_border
from dinobench.errors import UserError


def drawn(height, width, seed=0):
    """An image whose red and green tell row and column, and depth that tells both."""
    rows, columns = np.mgrid[:height, :width]
    depth = (1 + rows + columns / 1000).astype(np.float32)
    return np.stack([rows, columns, rows * 0 + 7], -1).astype(np.uint8), depth


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_image_and_depth_are_cut_from_one_place(seed, border):
    pixels, depth = drawn(60, 80)
    view = DepthView((32, 40), border=border, rotate=0, colour=0)
    image, d = view(pixels, depth, np.random.default_rng(seed))
    assert image.shape == (3, 32, 40) and d.shape == (1, 32, 40) and image.dtype == d.dtype == np.float32
    assert np.allclose(1 + image[0] + image[1] / 1000, d[0])
    steps = np.diff(image[1, 0])
    assert (steps == 1).all() or (steps == -1).all()


def test_rotation_turns_both_and_brings_in_unknown_depth():
    pixels, depth = drawn(61, 81)
    turned = [
        DepthView((61, 81), rotate=2.5, flip=0, colour=0)(pixels, depth, np.random.default_rng(s)) for s in range(40)
    ]
    moved = [(image, d) for image, d in turned if not np.array_equal(d[0], depth)]
    assert 8 < len(moved) < 32  # half of them
    for image, d in moved:
        assert (d == 0).any() and d[0, 30, 40] == depth[30, 40]
        inside = (d[0] > 0) & (image[2] == 7)
        inside[:6] = inside[-6:] = inside[:, :6] = inside[:, -6:] = False
        assert np.abs(image[0] - np.floor(d[0] - 1))[inside].max() <= 2


def test_colours_are_the_recipe_s():
    pixels = np.full((4, 5, 3), (10, 100, 200), np.uint8)
    depth = np.ones((4, 5), np.float32)
    view = DepthView((4, 5), rotate=0, flip=0, colour=1, brightness=0.25)
    seen = np.stack([view(pixels, depth, np.random.default_rng(s))[0][:, 0, 0] for s in range(300)])
    lowest = np.array([10, 100, 200.0]) ** 0.9 * 0.75 * 0.9
    highest = np.minimum(np.array([10, 100, 200.0]) ** 1.1 * 1.25 * 1.1, 255)
    assert (seen >= lowest - 1e-3).all() and (seen <= highest + 1e-3).all()
    assert (seen.min(0) < lowest * 1.25).all() and (seen.max(0) > highest * 0.8).all()
    assert (seen.max() == 255) and len(np.unique(seen[:, 0] / seen[:, 1])) == 300


def test_borders_and_small_images():
    assert without_border(np.zeros((240, 320, 3))).shape == (236 - 22, 304 - 21, 3)
    with pytest.raises(UserError, match=r"a.png: 80 x 60 pixels to train on.*--set train_crop=60,80"):
        DepthView((96, 128))(*drawn(60, 80), np.random.default_rng(0), "a.png")
