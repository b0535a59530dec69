"""Runs as typed on data whose annotations or images are at fault: one line that names it, or a score with a note."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zlib

import numpy as np
import pytest
from helpers.coco import make_coco
from helpers.landmarks import oxford
from helpers.typed import assert_one_line
from helpers.voc import make_voc
from helpers.weights import save, vit
from PIL import Image

from dinobench.data.layouts.coco import ANNOTATIONS
from dinobench.data.video import label_png
from dinobench.results.records import read_all

ATTENTION = ("run", "--protocol", "attention", "--set", "image_size=64", "--device", "cpu")
KNN = ("run", "--protocol", "knn", "--set", "resize=32", "--set", "crop=32", "--set", "k=1", "--device", "cpu")
RETRIEVAL = ("run", "--protocol", "retrieval", "--profile", "revisitop", "--device", "cpu", "--ckpt", "pixels")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(vit(), tmp_path_factory.mktemp("ckpt") / "vit.pth")


def coco_with(root, **changes):
    """COCO's small folder with the fields of annotation 8 changed; None takes a field out."""
    root.mkdir()
    content = json.loads((make_coco(root) / ANNOTATIONS).read_text())
    fields = content["annotations"][1] | changes
    content["annotations"][1] = {key: value for key, value in fields.items() if value is not None}
    (root / ANNOTATIONS).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"segmentation": [[]]}, "annotation 8: its polygon has 0 numbers"),
        ({"segmentation": [[1, 1, 5, 5]]}, "annotation 8: its polygon has 4 numbers"),
        ({"segmentation": [[float("nan")] * 6]}, "annotation 8: its polygon has x = nan"),
        ({"segmentation": [[1e18, 1, 5, 5, 9, 9]]}, "annotation 8: its polygon has x = 1e+18"),
        ({"segmentation": {"size": [20, 30], "counts": [2**40]}}, "annotation 8: its counts"),
        ({"segmentation": {"size": [10, 30], "counts": [300]}}, "annotation 8: its run lengths are for a size"),
        ({"image_id": "1"}, "annotation 8: image_id '1' is text"),
        ({"category_id": None}, "annotation 8: it lacks category_id"),
    ],
)
def test_coco_annotations_at_fault(command, checkpoint, tmp_path, changes, words):
    coco_with(tmp_path / "in", **changes)
    assert_one_line(*command(*ATTENTION, "--ckpt", checkpoint, "--data", "in"), f"in/{ANNOTATIONS}: {words}")


def test_what_coco_and_voc_leave_out_is_shown_and_recorded(command, checkpoint, tmp_path):
    coco_with(tmp_path / "in", image_id=77)
    voc = make_voc(tmp_path)
    (voc / "VOC2012" / "SegmentationObject" / "bare.png").write_bytes(label_png(np.zeros((20, 30), np.uint8)))
    for folder, file in (("SegmentationClass", "bare.png"), ("JPEGImages", "bare.jpg")):
        source = voc / "VOC2012" / folder / f"x{file[4:]}"
        (source.parent / file).write_bytes(source.read_bytes())
    (voc / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").write_text("x\nbare\n")
    notes = {
        "in": "1 of 4 annotations are left out because they point at images that instances_val2017.json does not",
        "VOCdevkit": "1 of 2 images have no instances at 64 pixels and count for nothing, such as bare",
    }
    for data, note in notes.items():
        code, out, err = command(*ATTENTION, "--ckpt", checkpoint, "--data", data, "--out", f"out_{data}")
        assert code == 0 and "n = 1" in out and note in err
        ((record,), _) = read_all(tmp_path / f"out_{data}")
        assert any(note in text for text in record.notes)


def test_images_at_fault_are_named_with_the_reason(command, tmp_path):
    for i, name in enumerate(f"{split}/{c}/{n}.png" for split in ("train", "val") for c in "ab" for n in range(4)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (9 * i, 0, 0)).save(tmp_path / "in" / name)
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    scan = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, b"IDAT", b"IEND"):
        scan += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "in" / "train" / "a" / "scan.png").write_bytes(scan)
    words = "train/a/scan.png (900,000,000 pixels, above the limit of 178,956,970; make it smaller)"
    assert_one_line(*command(*KNN, "--ckpt", "pixels", "--data", "in"), words)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "in" / "train" / "a" / "link.png").symlink_to(tmp_path / "pipe")
    code, out, err = command(*KNN, "--ckpt", "pixels", "--data", "in")
    assert code == 2 and "train/a/link.png (a named pipe, not a file), train/a/scan.png (900,000,000 pix" in err
    code, out, err = command(*KNN, "--ckpt", "pixels", "--data", "in", "--skip-broken", "--json")
    assert code == 0 and json.loads(out)[0]["broken_images"] == 2, err


@pytest.mark.filterwarnings("error:invalid value:RuntimeWarning")
def test_forged_arrays_and_missing_boxes(command, tmp_path):
    """The forged one ended the process; a query without a box brought a warning of NumPy's."""
    entries = [{"easy": [0], "hard": [1], "junk": [], "bbx": None}] * 2
    file = oxford(tmp_path, gnd=entries) / "gnd_roxford5k.pkl"
    code, _, err = command(*RETRIEVAL, "--set", "dataset=roxford5k", "--data", file.parent)
    assert code == 0, err
    content = pickle.loads(file.read_bytes()) | {"imlist": np.array([None] * 6, object)}
    forged = re.sub(rb"\]q.\(NNNNNNe", b"U\x30" + b"A" * 48, pickle.dumps(content, 2), flags=re.DOTALL)
    file.write_bytes(forged)
    assert b"A" * 48 in forged
    assert_one_line(*command(*RETRIEVAL, "--data", file.parent), "not a readable pickle (an array of objects")
