from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.davis import make_davis, other_size, rgb
from PIL import Image

from dinobench.data.layouts import davis as layout
from dinobench.data.video import label_png, palette, read_labels
from dinobench.errors import UserError
from dinobench.protocols.davis import score_folder


def whole(path, label):
    return np.where(read_labels(path) > 0, np.uint8(label), np.uint8(0))


def smooth(labels):
    return cv2.GaussianBlur(labels, (7, 7), 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "00001.png: no such mask"),
        (rgb, "00001.png: a mask in mode RGB"),
        (other_size, "00001.png: 16 x 12 pixels"),
        (lambda p: p.write_bytes(b"no image"), "00001.png: not a readable mask"),
        (lambda p: p.write_bytes(label_png(np.full((24, 32), 9, np.uint8))), "00001.png: label 9, but the video has 2"),
        (lambda p: p.write_bytes(label_png(whole(p, 255))), "00001.png: only 0 and 255, .* labelled 1 to 2"),
        (lambda p: p.write_bytes(label_png(smooth(whole(p, 255)))), "00001.png: .* smoothed or JPEG"),
    ],
)
def test_faults_in_predictions_are_named(spoil, words, tmp_path):
    data = layout.load(make_davis(tmp_path / "data"), "DAVIS")
    shutil.copytree(tmp_path / "data/Annotations/480p", tmp_path / "predictions")
    assert score_folder(tmp_path / "predictions", data)[1]["J&F"] == 100
    spoil(tmp_path / "predictions" / "cat" / "00001.png")
    with pytest.raises(UserError, match=words):
        score_folder(tmp_path / "predictions", data)
    with pytest.raises(UserError, match="no such folder"):
        score_folder(tmp_path / "predictions" / "cat", data)


def test_an_object_missing_from_a_prediction_is_empty(tmp_path):
    data = layout.load(make_davis(tmp_path / "data"), "DAVIS")
    for i in range(4):
        path = tmp_path / "predictions" / "cat" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(label_png((data.videos[0].mask(i) == 1).view(np.uint8)))
    table, summary = score_folder(tmp_path / "predictions", data)
    assert table["J&F"].tolist() == [1, 0] and summary["J&F"] == 50


def test_masks_on_disk_are_indexed_with_the_palette(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    (tmp_path / "m.png").write_bytes(label_png(labels))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P" and image.getpalette() == palette()
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png"), labels)
