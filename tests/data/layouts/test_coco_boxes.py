from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.boxes import make_coco_boxes
from helpers.golden import golden_values

from dinobench.data import load_dataset
from dinobench.data.layouts import coco_boxes
from dinobench.errors import UserError


def test_sides_are_whole_and_crowds_left_out(tmp_path):
    data = load_dataset(str(make_coco_boxes(tmp_path)), "boxes").select()
    assert list(data.ids) == ["9", "30"]
    assert [b.tolist() for b in data.boxes] == [[[10, 4, 30, 15], [1, 2, 4, 6]], [[7, 8, 38, 28]]]  # halves to even
    assert data.notes == ("1 of 3 images are left out because no object is marked in them, such as 25",)
    assert data.load("30").size == (60, 40)


def test_coco20k_is_a_list_of_train2014s_files(tmp_path):
    path = make_coco_boxes(tmp_path)
    whole = load_dataset(str(path), "boxes").select()
    (path / "annotations" / coco_boxes.LIST).write_text("train2014/COCO_train2014_000000000030.jpg\n\n")
    data = load_dataset(str(path), "boxes")
    assert data.usual == "coco20k" and list(data.select().ids) == list(data.select("coco20k").ids) == ["30"]
    assert list(data.select("train2014").ids) == ["9", "30"] and data.select().fingerprint != whole.fingerprint
    (path / "annotations" / coco_boxes.LIST).write_text("COCO_train2014_000000000031.jpg\n")
    with pytest.raises(
        UserError, match=r"1 of its images are not in .*train2014.json, such as COCO_train2014_0+31.jpg"
    ):
        load_dataset(str(path), "boxes").select()
    (path / "annotations" / coco_boxes.LIST).write_text("\n")
    with pytest.raises(UserError, match=r"coco_20k_filenames.txt: empty"):
        load_dataset(str(path), "boxes").select()


def test_of_several_sets_one_is_chosen(tmp_path):
    path = make_coco_boxes(tmp_path)
    (path / "annotations" / "instances_val2017.json").write_text("{}")
    data = load_dataset(str(path), "boxes")
    with pytest.raises(UserError, match=r"choose with --set split=train2014 or --set split=val2017"):
        data.select()
    assert list(data.select("train2014").ids) == ["9", "30"]


@pytest.mark.parametrize(
    ("key", "fields", "message"),
    [
        ("annotations", {"bbox": [1, 2, 3]}, r"annotation 1: its bbox \[1, 2, 3\] is no x, y, width and height"),
        ("annotations", {"bbox": None}, "annotation 1: its bbox null is no x"),
        ("annotations", {"bbox": [0, 0, -1, 4]}, "annotation 1: its bbox"),
        ("annotations", {"bbox": [0, 0, float("nan"), 4]}, "annotation 1: its bbox"),
        ("annotations", {"bbox": [0, 0, True, 4]}, "annotation 1: its bbox"),
        ("annotations", {"image_id": None}, "annotation 1: it lacks image_id"),
        ("images", {"file_name": "../x.jpg"}, "image 30: its file_name '../x.jpg' does not name a file"),
        ("images", {"id": 25}, "image 25: its id is there twice"),
        ("images", {"file_name": "gone.jpg"}, r"gone.jpg: missing, though .*instances_train2014.json names it"),
    ],
)
def test_annotations_at_fault_are_named(tmp_path, key, fields, message):
    path = make_coco_boxes(tmp_path)
    file = path / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    content[key][0] |= fields
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_dataset(str(path), "boxes").select()


def test_annotations_of_no_image_are_counted(tmp_path):
    path = make_coco_boxes(tmp_path)
    file = path / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    content["annotations"].append({"id": 6, "image_id": 77, "bbox": [0, 0, 1, 1]})
    file.write_text(json.dumps(content))
    notes = load_dataset(str(path), "boxes").select().notes
    assert notes[0].startswith("1 annotations are left out") and "annotation 6 at image 77" in notes[0]


def test_real_boxes_read_as_the_programs_do(shared_data):
    data = load_dataset(str(shared_data / "coco"), "boxes").select()
    golden = golden_values("discovery/discovery_coco")["per_image"]
    assert len(data) == 100 and list(data.ids)[: len(golden)] == list(golden)
    for image, boxes in zip(list(golden), data.boxes, strict=False):
        assert np.array_equal(boxes, golden[image]["gt"])
