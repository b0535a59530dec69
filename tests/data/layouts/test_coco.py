from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from dinobench.data.layouts import coco
from dinobench.errors import UserError


def make_coco(root):
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    Image.new("RGB", (30, 20)).save(root / "val2017" / "000001.jpg")
    Image.new("RGB", (30, 20)).save(root / "val2017" / "000002.jpg")
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[5:9, 5:9] = 1
    packed = rle.encode(mask)
    packed["counts"] = packed["counts"].decode()
    box = [[10, 10, 20, 10, 20, 15, 10, 15]]
    common = {"image_id": 1, "iscrowd": 0, "area": 16, "bbox": [0, 0, 1, 1]}
    annotations = [
        {**common, "id": 7, "category_id": 3, "segmentation": packed},
        {**common, "id": 8, "category_id": 3, "segmentation": box},
        {**common, "id": 9, "category_id": 5, "segmentation": packed, "iscrowd": 1},
        {**common, "id": 10, "category_id": 5, "segmentation": packed, "iscrowd": 1, "image_id": 2},
    ]
    images = [{"id": i, "file_name": f"{i:06}.jpg", "height": 20, "width": 30} for i in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3}, {"id": 5}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def test_coco_leaves_crowds_out(tmp_path, capsys):
    data = coco.load(make_coco(tmp_path), "coco")
    assert list(data.ids("instances")) == ["000001"]  # the other image has a crowd only
    objects, classes = data.masks("000001", "instances"), data.masks("000001", "classes")
    assert objects.ids == (7, 8) and classes.ids == (3,)
    assert objects.masks.shape == (2, 20, 30) and objects.masks[0].sum() == 16
    assert (classes.masks[0] == objects.masks.any(0)).all()
    assert capsys.readouterr().out == ""  # pycocotools talks on stdout, which is for results


def test_coco_faults_are_named(tmp_path):
    make_coco(tmp_path)
    (tmp_path / "val2017" / "000001.jpg").unlink()
    with pytest.raises(UserError, match=r"000001.jpg: missing"):
        coco.load(tmp_path, "coco")
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(UserError, match=r"instances_val2017.json: not a COCO annotation file"):
        coco.load(tmp_path, "coco")
