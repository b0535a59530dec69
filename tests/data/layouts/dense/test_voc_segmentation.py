"""VOC's class masks to learn from: train, aug, or half of what there is."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.label_maps import add_aug, halves, voc_folder
from PIL import Image, ImageFilter

from dinobench.data import load_dataset
from dinobench.data.layouts.dense import voc_segmentation
from dinobench.data.video import label_png
from dinobench.errors import UserError


def test_train_is_learnt_from_and_val_scored(tmp_path):
    data = load_dataset(str(voc_folder(tmp_path)), "label_maps")
    assert data.name == "VOC2012" and data.layout == "voc-segmentation (train)" and not data.notes
    assert data.train.ids == ("a", "b") and data.test.ids == ("c",)
    assert len(data.classes) == 21 and data.background == 0 and data.classes[15] == "person"
    np.testing.assert_array_equal(data.test.labels(0), halves(0, 15, 255))
    assert data.test.load(0).size == (32, 24)


@pytest.mark.parametrize("listed", ["aug.txt", "trainaug.txt", None])
def test_aug_is_learnt_from_too(tmp_path, listed):
    path = voc_folder(tmp_path)
    add_aug(path, ("b", "d", "e"), listed)
    data = voc_segmentation.load(path, "VOC")
    assert data.layout == "voc-segmentation (train + aug)" and data.train.ids == ("a", "b", "d", "e")
    assert [int(data.train.labels(i).max()) for i in range(4)] == [255, 255, 7, 7]  # train's own masks go first


def test_masks_of_val_beside_aug_are_not_learnt_from(tmp_path):
    path = voc_folder(tmp_path)
    folder = add_aug(path, ("c", "d"))
    assert voc_segmentation.load(path, "VOC").train.ids == ("a", "b", "d")
    (folder / "ImageSets" / "Segmentation" / "aug.txt").write_text("c\nd\n")
    with pytest.raises(UserError, match=r"aug.txt: names c, which val.txt names too"):
        voc_segmentation.load(path, "VOC")


def test_without_a_train_list_every_second_image_is_learnt_from(tmp_path):
    data = voc_segmentation.load(voc_folder(tmp_path, (), ("a", "b", "c", "d", "e")), "VOC")
    assert data.train.ids == ("b", "d") and data.test.ids == ("a", "c", "e")
    assert data.layout == "voc-segmentation (val halved)" and "every second is learnt from, 2 in all" in data.notes[0]


def test_faults_are_named(tmp_path):
    path = voc_folder(tmp_path)
    mask = path / "VOC2012" / "SegmentationClass" / "c.png"
    mask.write_bytes(label_png(halves(0, 40)))
    with pytest.raises(UserError, match=r"c.png: holds 40, but the labels here are 0 to 20 and 255"):
        voc_segmentation.load(path, "VOC").test.labels(0)
    labels = np.zeros((24, 32), np.uint8)
    labels[6:18, 5:20] = 20
    Image.fromarray(labels).filter(ImageFilter.GaussianBlur(1)).save(mask)
    with pytest.raises(UserError, match=r"c.png: \d+ values besides 0 and 255, .* shades of a smoothed"):
        voc_segmentation.load(path, "VOC").test.labels(0)
    Image.new("RGB", (32, 24)).save(mask)
    with pytest.raises(UserError, match=r"c.png: a mask in mode RGB"):
        voc_segmentation.load(path, "VOC").test.labels(0)
    mask.unlink()
    with pytest.raises(UserError, match=r"c.png: missing"):
        voc_segmentation.load(path, "VOC")
    with pytest.raises(UserError, match=r"one image only, and no train.txt"):
        voc_segmentation.load(voc_folder(tmp_path / "one", ()), "VOC")


def test_an_image_that_is_in_both_is_noted(tmp_path):
    path = voc_folder(tmp_path)
    images = path / "VOC2012" / "JPEGImages"
    (images / "c.jpg").write_bytes((images / "a.jpg").read_bytes())
    assert "1 of 1 test images are in train too" in voc_segmentation.load(path, "VOC").notes[0]


def test_the_fingerprint_is_of_images_and_maps(tmp_path):
    path = voc_folder(tmp_path)
    first = voc_segmentation.load(path, "VOC")
    (path / "VOC2012" / "SegmentationClass" / "a.png").write_bytes(label_png(halves(0, 3)))
    second = voc_segmentation.load(path, "other")
    assert first.fingerprint != second.fingerprint and first.train.fingerprint != second.train.fingerprint
    assert first.test.fingerprint == second.test.fingerprint


def test_real_masks_are_label_maps(shared_data):
    data = load_dataset(str(shared_data / "VOCdevkit"), "label_maps")
    assert len(data.train) == len(data.test) == 75
    seen = {value for i in range(0, 75, 5) for value in np.unique(data.test.labels(i)).tolist()}
    assert {0, 255} < seen <= {*range(21), 255}
