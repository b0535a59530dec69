from __future__ import annotations

import numpy as np
import pytest
from helpers.boxes import make_voc_boxes
from helpers.golden import golden_values
from helpers.paths import GOLDEN
from helpers.voc import make_voc

from dinobench.data import load_dataset
from dinobench.data.layouts import voc_boxes
from dinobench.errors import UserError

IMAGES = {"a": [(1, 2, 30, 40, False, False)], "b": [(9, 9, 9, 9, True, False), (2, 3, 4, 5, False, True)], "c": []}


def test_boxes_are_counted_from_0_and_parts_are_none(tmp_path):
    path = make_voc_boxes(tmp_path, IMAGES)
    assert voc_boxes.recognises(path) and voc_boxes.default_name(path) == "VOC2007"
    data = load_dataset(str(path), "boxes").select()
    assert list(data.ids) == ["a", "b"]
    assert [b.tolist() for b in data.boxes] == [[[0, 1, 30, 40]], [[8, 8, 9, 9], [1, 2, 4, 5]]]
    assert [h.tolist() for h in data.hard] == [[False], [True, True]]
    assert data.notes == ("1 of 3 images are left out because no object is marked in them, such as c",)
    assert data.load("a").size == (60, 40)
    assert voc_boxes.load(path / "VOC2007", "other").select().fingerprint == data.fingerprint


def test_lists_are_splits_and_those_of_classes_are_none(tmp_path):
    data = load_dataset(str(make_voc_boxes(tmp_path, IMAGES)), "boxes")
    assert sorted(data.readers) == ["all", "trainval", "val"] and data.usual == "trainval"
    assert list(data.select("val").ids) == ["a"] and list(data.select("all").ids) == ["a", "b"]
    with pytest.raises(UserError, match=r"unknown split of VOC2007 'vale': did you mean 'val'"):
        data.select("vale")


def test_the_latest_year_counts(tmp_path):
    path = make_voc_boxes(tmp_path, IMAGES)
    make_voc_boxes(tmp_path, {"z": IMAGES["a"]}, "VOC2012")
    assert list(load_dataset(str(path), "boxes").select().ids) == ["z"]


def test_without_annotations_masks_have_boxes(tmp_path):
    data = load_dataset(str(make_voc(tmp_path)), "boxes")
    found = data.select("val")
    assert [b.tolist() for b in found.boxes] == [[[2, 2, 8, 8], [10, 10, 28, 18]]]
    assert found.notes == ("there is no Annotations/: the boxes are those around the masks in SegmentationObject/",)
    with pytest.raises(UserError, match="nothing in it says which objects are truncated"):
        data.select("val", no_hard=True)


def test_listed_images_without_annotation_are_counted(tmp_path):
    path = make_voc_boxes(tmp_path, IMAGES)
    (path / "VOC2007" / "Annotations" / "b.xml").unlink()
    data = load_dataset(str(path), "boxes").select()
    assert list(data.ids) == ["a"]
    assert "1 of the 3 images of" in data.notes[0] and "such as b" in data.notes[0]
    (path / "VOC2007" / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a.jpg: missing, though Annotations/ annotates it"):
        load_dataset(str(path), "boxes").select()
    for file in (path / "VOC2007" / "Annotations").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"Annotations: annotates none of the 3 images of .*trainval.txt"):
        load_dataset(str(path), "boxes").select()


BNDBOX = "<bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
BOX = f"<annotation><object>{BNDBOX}</object></annotation>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", "not readable as XML"),
        ("", "not readable as XML"),
        ("<annotations/>", "its root is <annotations>, not <annotation>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares a document type"),
        ("<annotation><object/></annotation>", "object 1 has no bndbox of four numbers"),
        (BOX.format("one"), "object 1 has no bndbox of four numbers"),
        (BOX.format("10"), "object 1 has the box 10, 1, 9, 9, whose sides are none"),
        (BOX.format("nan"), "object 1 has the box nan, 1, 9, 9, whose sides are none"),
        (" " * (voc_boxes.LIMIT + 1), "above the limit of 1,048,576|File too large"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not readable as XML"),
    ],
)
def test_annotations_at_fault_are_named(tmp_path, content, message):
    path = make_voc_boxes(tmp_path, IMAGES)
    (path / "VOC2007" / "Annotations" / "b.xml").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(str(path), "boxes").select()
    assert "b.xml" in str(caught.value) and "\n" not in str(caught.value)


def test_the_golden_annotations_read_as_the_programs_do():
    golden = golden_values("discovery/discovery_voc")["per_image"]
    for image, want in golden.items():
        boxes, _ = voc_boxes.read_xml(GOLDEN / f"next/discovery/Annotations/{image}.xml")
        assert boxes.tolist() == want["gt"]


def test_boxes_of_real_masks_are_those_of_their_annotations(shared_data):
    data = load_dataset(str(shared_data / "VOCdevkit"), "boxes").select()
    golden = golden_values("discovery/discovery_voc")["per_image"]
    assert sorted(data.ids) == sorted(golden)
    for image, boxes in zip(data.ids, data.boxes, strict=True):
        assert np.array_equal(boxes, golden[image]["gt"])
