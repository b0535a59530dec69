from __future__ import annotations

import shutil

import pytest
from helpers.voc import make_voc
from PIL import Image

from dinobench.data.layouts import voc
from dinobench.errors import UserError


def test_voc_instances_classes_and_void(tmp_path):
    path = make_voc(tmp_path)
    assert voc.recognises(path) and voc.recognises(path / "VOC2012") and voc.default_name(path) == "VOC2012"
    data = voc.load(path, "VOC2012")
    objects, classes = data.masks("x", "instances"), data.masks("x", "classes")
    assert objects.ids == (1, 2) and classes.ids == (15,)
    assert objects.void.sum() == 1 and objects.masks.sum() == classes.masks.sum() == 36 + 144
    assert voc.load(path / "VOC2012", "other").fingerprint == data.fingerprint


def test_voc_faults_are_named(tmp_path):
    path = make_voc(tmp_path)
    mask = path / "VOC2012" / "SegmentationObject" / "x.png"
    Image.new("RGB", (30, 20)).save(mask)
    with pytest.raises(UserError, match=r"x.png: a mask in mode RGB"):
        voc.load(path, "VOC").masks("x", "instances")
    mask.unlink()
    with pytest.raises(UserError, match=r"x.png: missing"):
        voc.load(path, "VOC")
    shutil.rmtree(mask.parent)
    with pytest.raises(UserError, match="no masks of instances"):
        voc.load(path, "VOC").ids("instances")
