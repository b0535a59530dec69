from __future__ import annotations

import random

import numpy as np

from dinobench.data.pairs.keypoints import PointPair, some_of_each


def pair(i, category, viewpoint):
    points = np.zeros((1, 2))
    return PointPair(
        str(i), category, "a", "b", (9, 9), (9, 9), points, points, np.array([0, 0, 1, 1]), ("0",), viewpoint
    )


def test_pairs_are_drawn_as_probe3d_draws_them():
    pairs = [pair(i, "cat" if i < 8 else "dog", i % 3) for i in range(14)]
    wanted = []
    for first, last in ((0, 8), (8, 14)):
        own = list(range(first, last))
        random.seed(20)
        random.shuffle(own)
        wanted += own[:3]
    assert some_of_each(pairs, 3, 20) == sorted(wanted)
    assert some_of_each(pairs, 99, 20) == list(range(14))
    assert some_of_each(pairs, 99, 20, viewpoint=1) == [1, 4, 7, 10, 13]
    assert some_of_each(pairs, 1, 20, viewpoint=7) == []
