"""ADE20k: 0 is ignored, 1 to 150 become 0 to 149."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.label_maps import halves, write_pair

from dinobench.data import load_dataset
from dinobench.data.layouts.dense import ade20k
from dinobench.data.video import label_png
from dinobench.errors import UserError


def folder(root):
    for part, prefix, count in (("training", "ADE_train", 3), ("validation", "ADE_val", 2)):
        for i in range(1, count + 1):
            name = f"{prefix}_{i:08}"
            mask = root / "annotations" / part / f"{name}.png"
            write_pair(root / "images" / part / f"{name}.jpg", mask, halves(0, 150, 1), i)
    return root


def test_zero_is_ignored_and_the_rest_lowered(tmp_path):
    data = load_dataset(str(folder(tmp_path / "ADEChallengeData2016")), "label_maps")
    assert data.layout == "ade20k" and data.background is None and len(data.classes) == 150
    assert data.train.ids == tuple(f"ADE_train_{i:08}" for i in (1, 2, 3)) and len(data.test) == 2
    labels = data.test.labels(1)
    assert np.unique(labels).tolist() == [0, 149, 255] and (labels == 255).sum() == 24 * 16


def test_lists_say_which_images_count(tmp_path):
    path = folder(tmp_path)
    listed = path / "ADE20K_object150_train.txt"
    listed.write_text("training/ADE_train_00000003.jpg\ntraining/ADE_train_00000001.jpg\n")
    assert ade20k.load(path, "ADE").train.ids == ("ADE_train_00000003", "ADE_train_00000001")
    listed.write_text("training/ADE_train_00000009.jpg\n")
    with pytest.raises(UserError, match="names 'ADE_train_00000009', which is not in"):
        ade20k.load(path, "ADE")
    listed.write_text("training/ADE_train_00000001.jpg\n" * 2)
    with pytest.raises(UserError, match="ADE_train_00000001 is listed twice"):
        ade20k.load(path, "ADE")


def test_classes_are_named_where_the_list_is_there(tmp_path):
    path = folder(tmp_path)
    rows = "".join(f"{i}\t0.1\t1\t1\tthing {i}, other name\n" for i in range(1, 151))
    plain = ade20k.load(path, "ADE")
    (path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + rows)
    named = ade20k.load(path, "ADE")
    assert plain.classes[149] == "150" and named.classes[149] == "thing 150"
    assert plain.fingerprint == named.fingerprint


def test_faults_are_named(tmp_path):
    path = folder(tmp_path)
    mask = path / "annotations" / "validation" / "ADE_val_00000001.png"
    mask.write_bytes(label_png(halves(1, 151)))
    with pytest.raises(UserError, match=r"ADE_val_00000001.png: holds 151, but the labels here are 0 to 150 and 255"):
        ade20k.load(path, "ADE").test.labels(0)
    mask.unlink()
    with pytest.raises(UserError, match=r"ADE_val_00000001.png: missing"):
        ade20k.load(path, "ADE")
    for image in (path / "images" / "validation").iterdir():
        image.unlink()
    with pytest.raises(UserError, match="validation: no images"):
        ade20k.load(path, "ADE")
