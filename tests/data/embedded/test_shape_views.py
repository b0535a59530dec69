from __future__ import annotations

import numpy as np

from dinobench.data import load_dataset
from dinobench.data.embedded import shape_views
from dinobench.data.embedded.shape_views import AWAY, BALLS, FOCAL, RADIUS, SIDE, VIEWS


def test_views_are_of_balls_at_their_depth():
    data = load_dataset("mine=shapes", "navi")
    assert len(data.views) == BALLS * VIEWS and data.fingerprint == shape_views.views().fingerprint
    image, depth = data.load(5)
    assert image.size == (SIDE, SIDE) and depth.shape == (SIDE, SIDE)
    ray = (np.arange(SIDE) + 0.5 - SIDE / 2) / FOCAL
    points = np.stack([depth * ray, depth * ray[:, None], depth], axis=-1)[depth > 0]
    np.testing.assert_allclose(np.linalg.norm(points - (0, 0, AWAY), axis=1), RADIUS, rtol=1e-4)
    pixels = np.asarray(image)
    assert (pixels[depth == 0] == 96).all() and len(np.unique(pixels[depth > 0], axis=0)) > 10


def test_what_a_ball_wears_turns_with_it():
    """The point in the middle of one view has its colour in the next."""
    data = shape_views.views()
    first, second = data.views[0], data.views[1]
    colours = []
    for index, view in ((0, first), (1, second)):
        own = (np.array([0, 0, AWAY - RADIUS]) - first.pose[:3, 3]) @ first.pose[:3, :3]
        x, y, z = view.pose[:3, :3] @ own + view.pose[:3, 3]
        column, row = (int(FOCAL * v / z + SIDE / 2) for v in (x, y))
        around = np.asarray(data.load(index)[0])[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3)
        colours.append(set(map(tuple, around.tolist())))
    assert colours[0] & colours[1]
