from __future__ import annotations

import numpy as np
import pytest
from helpers.boxes import make_voc_boxes

from dinobench.data import load_dataset
from dinobench.data.boxes import BoxSplits, boxes_of_masks
from dinobench.data.embedded import shapes
from dinobench.errors import UserError


def test_boxes_around_masks():
    masks = np.zeros((2, 5, 7), bool)
    masks[0, 1:3, 2:6], masks[1, 4, 6] = True, True
    assert boxes_of_masks(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5]]
    assert boxes_of_masks(np.zeros((0, 5, 7), bool)).shape == (0, 4)


def test_shapes_have_a_box_for_each_shape():
    data = load_dataset("shapes", "boxes").select()
    masks = shapes.images()
    assert list(data.ids) == masks.ids("instances") and data.fingerprint == masks.fingerprint
    for image_id, boxes in zip(data.ids, data.boxes, strict=True):
        for (x1, y1, x2, y2), mask in zip(boxes.astype(int), masks.masks(image_id, "instances").masks, strict=True):
            assert mask[y1:y2, x1:x2].sum() == mask.sum()
            assert mask[y1].any() and mask[y2 - 1].any() and mask[:, x1].any() and mask[:, x2 - 1].any()
    with pytest.raises(UserError, match="shapes: nothing in it says which objects are truncated"):
        load_dataset("shapes", "boxes").select(no_hard=True)
    with pytest.raises(UserError, match="unknown split of shapes 'al'"):
        load_dataset("shapes", "boxes").select("al")


def test_a_split_is_read_once_and_when_it_is_asked_for():
    read = []

    def reader():
        read.append(1)
        return shapes.boxes().select()

    data = BoxSplits("x", "y", {"a": reader, "b": reader}, None)
    with pytest.raises(UserError, match="x holds several sets: choose with --set split=a or --set split=b"):
        data.select()
    assert not read
    assert data.select("a") is data.select("a") and len(read) == 1


def test_without_hard_objects(tmp_path):
    images = {"a": [(1, 1, 9, 9, True, False)], "b": [(1, 1, 9, 9, False, True), (5, 5, 20, 20, False, False)]}
    data = load_dataset(str(make_voc_boxes(tmp_path, images)), "boxes")
    whole, easy = data.select(), data.select(no_hard=True)
    assert list(easy.ids) == ["b"] and easy.boxes[0].tolist() == [[4, 4, 20, 20]]
    assert easy.notes == ("2 of 3 objects are left out as truncated or difficult, and with them 1 of 2 images",)
    assert easy.fingerprint != whole.fingerprint and not whole.notes
    with pytest.raises(UserError, match="all of its objects are truncated or difficult"):
        data.select("val", no_hard=True)
