"""Cityscapes: label ids are mapped to the 19 train ids, maps of train ids are read as they are."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.label_maps import halves, write_pair

from dinobench.data import load_dataset
from dinobench.data.layouts.dense import cityscapes
from dinobench.data.video import label_png
from dinobench.errors import UserError

#: Train ids of all label ids from 0 (cityscapesScripts, helpers/labels.py), 255 for those that are not trained on.
TRAIN_IDS = [
    *[255] * 7, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17,
    18,
]  # fmt: skip


def folder(root, ending="labelIds", labels=None):
    for part, name in (("train", "aachen/aachen_000000_000019"), ("val", "frankfurt/frankfurt_000000_000294")):
        image = root / "leftImg8bit" / part / f"{name}_leftImg8bit.png"
        write_pair(image, root / "gtFine" / part / f"{name}_gtFine_{ending}.png", labels)
    return root


def test_label_ids_are_mapped_to_train_ids(tmp_path):
    labels = np.random.default_rng(0).permutation(np.arange(24 * 32) % 34).reshape(24, 32).astype(np.uint8)
    data = load_dataset(str(folder(tmp_path, labels=labels)), "label_maps")
    assert data.layout == "cityscapes" and data.test.ids == ("frankfurt/frankfurt_000000_000294",)
    assert data.classes[0] == "road" and data.classes[18] == "bicycle" and data.background is None
    np.testing.assert_array_equal(data.test.labels(0), np.array(TRAIN_IDS, np.uint8)[labels])


def test_train_ids_are_read_where_they_are(tmp_path):
    data = cityscapes.load(folder(tmp_path, "labelTrainIds", halves(3, 18, 255)), "C")
    np.testing.assert_array_equal(data.test.labels(0), halves(3, 18, 255))
    mapped = cityscapes.load(folder(tmp_path / "ids", "labelIds", halves(12, 33, 0)), "C")
    np.testing.assert_array_equal(mapped.test.labels(0), data.test.labels(0))


def test_faults_are_named(tmp_path):
    path = folder(tmp_path)
    mask = path / "gtFine" / "val" / "frankfurt" / "frankfurt_000000_000294_gtFine_labelIds.png"
    mask.write_bytes(label_png(halves(7, 34)))
    with pytest.raises(UserError, match=r"labelIds.png: holds 34, but the labels here are 0 to 33 and 255"):
        cityscapes.load(path, "C").test.labels(0)
    mask.unlink()
    with pytest.raises(UserError, match=r"frankfurt_000000_000294_gtFine_labelIds.png: missing"):
        cityscapes.load(path, "C")
    (path / "leftImg8bit" / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(UserError, match=r"train: no <city>/\*_leftImg8bit.png"):
        cityscapes.load(path, "C")
