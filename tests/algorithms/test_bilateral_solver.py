"""The bilateral solver beside one written out vertex by vertex, what it must keep, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.algorithms.bilateral_solver import Bandwidths, bilateral_solver, grid_of


def plain(image: np.ndarray, mask: np.ndarray, spatial: float, luma: float, chroma: float) -> np.ndarray:
    """The same with dictionaries, dense matrices and conjugate gradients as textbooks have them."""
    vertices: dict[tuple[int, ...], int] = {}
    which = np.zeros(mask.shape, int)
    for y, x in np.ndindex(mask.shape):
        r, g, b = image[y, x].astype(float)
        bright = 0.299 * r + 0.587 * g + 0.114 * b
        blue = -0.168736 * r - 0.331264 * g + 0.5 * b + 128
        red = 0.5 * r - 0.418688 * g - 0.081312 * b + 128
        place = (int(x / spatial), int(y / spatial), int(bright / luma), int(blue / chroma), int(red / chroma))
        which[y, x] = vertices.setdefault(place, len(vertices))
    n = len(vertices)
    blur = 10 * np.eye(n)
    for place, i in vertices.items():
        for axis in range(5):
            for step in (-1, 1):
                near = (*place[:axis], place[axis] + step, *place[axis + 1 :])
                if near in vertices:
                    blur[i, vertices[near]] += 1
    pixels = np.bincount(which.ravel(), minlength=n).astype(float)
    scale = np.ones(n)
    for _ in range(10):
        scale = np.sqrt(scale * pixels / (blur @ scale))
    matrix = 256 * (np.diag(scale * (blur @ scale)) - scale[:, None] * blur * scale) + np.diag(0.999 * pixels)
    sums = 0.999 * np.bincount(which.ravel(), mask.ravel(), minlength=n)
    found = sums / (0.999 * pixels)
    rest = sums - matrix @ found
    inverse = 1 / np.maximum(np.diag(matrix), 1e-5)
    along = np.zeros(n)
    before = 0.0
    for step in range(25):
        if np.linalg.norm(rest) <= 1e-5 * np.linalg.norm(sums):
            break
        now = rest @ (inverse * rest)
        along = inverse * rest + (now / before if step else 0) * along
        size = now / (along @ matrix @ along)
        found, rest, before = found + size * along, rest - size * (matrix @ along), now
    return found[which]


def picture(seed: int, height: int = 37, width: int = 45) -> tuple[np.ndarray, np.ndarray]:
    """A patch of one colour on another, both with grain, and a mask of it that is wrong by up to 4 pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, 3) + rng.integers(0, 12, (height, width, 3))
    image[9:28, 12:33] = rng.integers(140, 230, 3) + rng.integers(0, 12, (19, 21, 3))
    top, left = rng.integers(-4, 5, 2)
    mask = np.zeros((height, width), bool)
    mask[9 + top : 28 + top, 12 + left : 33 + left] = True
    return image.astype(np.uint8), mask


@pytest.mark.parametrize("bandwidths", [Bandwidths(), Bandwidths(5, 8, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_plain_one(seed, bandwidths):
    image, mask = picture(seed)
    assert bilateral_solver(image, mask, bandwidths) == pytest.approx(plain(image, mask, *bandwidths), abs=1e-8)


def test_mask_follows_the_colours():
    for seed in range(5):
        image, mask = picture(seed)
        true = np.zeros_like(mask)
        true[9:28, 12:33] = True
        found = bilateral_solver(image, mask) > 0.5
        assert (found != true).sum() <= (mask != true).sum() / 4


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_what_is_the_same_everywhere_stays_as_it_is(seed, value):
    image = np.random.default_rng(seed).integers(0, 256, (13, 18, 3), np.uint8)
    assert bilateral_solver(image, np.full((13, 18), value)) == pytest.approx(np.full((13, 18), value), abs=1e-9)


def test_every_pixel_has_one_vertex_and_neighbours_are_mutual():
    image, _ = picture(3)
    grid = grid_of(image, Bandwidths())
    assert (grid.splat.sum(axis=0) == 1).all() and (grid.splat.sum(axis=1) > 0).all()
    assert abs(grid.blur - grid.blur.T).max() == 0 and (grid.blur.diagonal() == 10).all()
    assert grid.blur.sum(axis=1).max() <= 20
