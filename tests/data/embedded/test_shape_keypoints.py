from __future__ import annotations

import numpy as np

from dinobench.data import load_dataset
from dinobench.data.embedded import shape_keypoints
from dinobench.data.embedded.shapes import COLORS, KINDS


def test_pairs_are_the_same_every_time_and_follow_their_category():
    a, b = shape_keypoints.pairs(), load_dataset("mine=shapes", "keypoints")
    assert a.fingerprint == b.fingerprint and b.name == "mine" and len(a.pairs) == 60
    categories = [pair.category for pair in a.pairs]
    assert sorted(categories, key=KINDS.index) == categories and {p.viewpoint for p in a.pairs} == {0, 1, 2}
    assert len({pair.id for pair in a.pairs}) == 60


def test_points_lie_on_the_shape_and_within_its_box():
    data = shape_keypoints.pairs()
    for pair in data.pairs:
        pixels = np.asarray(data.load(pair.target)).astype(int)
        assert pixels.shape[:2] == pair.target_size[::-1]
        (left, top, right, bottom), points = pair.target_box, pair.target_points
        assert ((points >= (left, top)) & (points < (right, bottom))).all()
        for x, y in points.astype(int):  # grain and stripes apart, the colour is the shape's
            around = pixels[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))
            assert np.abs(COLORS.astype(int) - around).max(axis=1).min() < 45, pair.id
        assert len(pair.names) == len(points) == len(pair.source_points)
