"""Drawn scenes: the same everywhere, a class for every pixel."""

from __future__ import annotations

import numpy as np

from dinobench.data import load_dataset
from dinobench.data.embedded import shape_scenes


def test_scenes_are_the_same_every_time():
    a, b = shape_scenes.scenes(), load_dataset("again=shapes", "label_maps")
    assert a.fingerprint == b.fingerprint and b.name == "again"
    assert (len(a.train), len(a.test), len(a.classes), a.background) == (24, 12, 6, 0)
    np.testing.assert_array_equal(a.train.pixels, b.train.pixels)


def test_every_class_is_learnt_from_and_scored():
    data = shape_scenes.scenes()
    for split in (data.train, data.test):
        assert np.unique(split.maps).tolist() == list(range(6))
        assert split.load(3).size == split.labels(3).shape[::-1]
    assert not set(data.train.ids) & set(data.test.ids)
    assert not {p.tobytes() for p in data.train.pixels} & {p.tobytes() for p in data.test.pixels}
