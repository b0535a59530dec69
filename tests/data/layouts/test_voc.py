from __future__ import annotations

import random
import shutil
import struct
import zlib

import numpy as np
import pytest
from helpers.mutants import damaged
from helpers.voc import make_voc
from PIL import Image, ImageFilter

from dinobench.data.layouts import voc
from dinobench.data.video import label_png
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x  1\ny -1\n", r"val.txt: line 1 has a second column, '1', as the lists of one class in ImageSets/Main have"),
        ("\ny -1\n", r"val.txt: line 2 has a second column, '-1'"),
        ("x\ny\nx\n", r"val.txt: x is listed twice, on lines 1 and 3"),
        ("\x1b[31m\n", r"val.txt: line 1 names '\\x1b\[31m'"),
        (" \n\n", "val.txt: empty"),
    ],
)
def test_lists_at_fault_are_named(tmp_path, content, message):
    path = make_voc(tmp_path)
    (path / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        voc.load(path, "VOC")


@pytest.mark.parametrize("content", ["\ufeffx\n", "x\r\n", "x\n\n", "  x  ", "x SegmentationClass/x.png\n"])
def test_lists_in_other_hands_writing(tmp_path, content):
    path = make_voc(tmp_path)
    expected = voc.load(path, "VOC").fingerprint
    (path / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").write_bytes(content.encode())
    assert voc.load(path, "VOC").fingerprint == expected


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_without_objects_has_none(tmp_path, value):
    path = make_voc(tmp_path)
    mask = path / "VOC2012" / "SegmentationObject" / "x.png"
    mask.write_bytes(label_png(np.full((20, 30), value, np.uint8)))
    assert voc.load(path, "VOC").masks("x", "instances").masks.shape == (0, 20, 30)


def test_smoothed_masks_are_refused(tmp_path):
    path = make_voc(tmp_path)
    mask = path / "VOC2012" / "SegmentationObject" / "x.png"
    labels = np.zeros((20, 30), np.uint8)
    labels[4:16, 5:20] = 200
    Image.fromarray(labels).filter(ImageFilter.GaussianBlur(1)).save(mask)
    with pytest.raises(UserError, match=r"x.png: \d+ values besides 0 and 255, .* shades of a smoothed"):
        voc.load(path, "VOC").masks("x", "instances")


def test_real_masks_are_labels(shared_data):
    data = voc.load(shared_data / "VOCdevkit", "VOC2012")
    for kind in ("instances", "classes"):
        assert all(data.masks(image, kind).ids for image in data.ids(kind))


@pytest.mark.parametrize("seed", range(2))
def test_five_hundred_damaged_masks(tmp_path, seed):
    """Each is read or refused in one line; none of Pillow's exceptions gets through."""
    path = make_voc(tmp_path)
    mask = path / "VOC2012" / "SegmentationObject" / "x.png"
    sound, rng = mask.read_bytes(), random.Random(seed)
    data = voc.load(path, "VOC")
    read = 0
    for _ in range(250):
        mask.write_bytes(resealed(damaged(sound, rng)) if rng.random() < 0.7 else damaged(sound, rng))
        try:
            found = data.masks("x", "instances")
        except UserError as error:
            assert "\n" not in str(error) and str(mask) in str(error)
            continue
        read += 1
        assert len(found.masks) == len(found.ids) and not set(found.ids) & {0, 255}
        assert found.masks.sum(0).max(initial=0) <= 1
    assert 10 < read < 240


def resealed(png):
    """The PNG with the checksums of its chunks made right again, so that damage reaches the decoder behind them."""
    data, at = bytearray(png), 8
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + size
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)
