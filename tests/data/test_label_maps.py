"""Label maps as they are read, whatever the layout."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from helpers.label_maps import halves, voc_folder, write_pair
from PIL import Image

from dinobench.data import load_dataset
from dinobench.data.label_maps import numbered, read_map, read_pair
from dinobench.data.layouts.dense import voc_segmentation
from dinobench.errors import UserError


def test_values_stand_for_classes():
    plain, reduced = numbered(3), numbered(3, reduce_zero_label=True)
    assert plain[:4].tolist() == [0, 1, 2, -1] and reduced[:5].tolist() == [255, 0, 1, 2, -1]
    assert plain[255] == reduced[255] == 255


def test_maps_are_read_through_the_table(tmp_path):
    write_pair(tmp_path / "x.jpg", tmp_path / "x.png", halves(0, 3, 255))
    np.testing.assert_array_equal(read_map(tmp_path / "x.png", numbered(4)), halves(0, 3, 255))
    np.testing.assert_array_equal(read_map(tmp_path / "x.png", numbered(3, True)), halves(255, 2, 255))
    with pytest.raises(UserError, match=r"x.png: holds 3, but the labels here are 0 to 2 and 255"):
        read_map(tmp_path / "x.png", numbered(3))


def test_image_and_map_have_one_size(tmp_path):
    path = voc_folder(tmp_path)
    data = voc_segmentation.load(path, "VOC")
    image, labels = read_pair(data.test, 0)
    assert (image.height, image.width) == labels.shape
    Image.new("RGB", (30, 24)).save(path / "VOC2012" / "JPEGImages" / "c.jpg")
    with pytest.raises(UserError, match=r"label map of c: 32 x 24 pixels, but its image has 30 x 24"):
        read_pair(data.test, 0)


def test_splits_survive_pickling(tmp_path):
    for data in (voc_segmentation.load(voc_folder(tmp_path), "VOC"), load_dataset("shapes", "label_maps")):
        split = pickle.loads(pickle.dumps(data.test))
        np.testing.assert_array_equal(split.labels(0), data.test.labels(0))
        assert split.fingerprint == data.test.fingerprint and tuple(split.ids) == tuple(data.test.ids)
