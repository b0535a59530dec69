from __future__ import annotations

import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.davis import make_davis, other_size, rgb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinobench.data.layouts import davis as layout
from dinobench.data.object_labels import objects_of
from dinobench.data.video import label_png
from dinobench.errors import UserError


def test_2017_has_labels_and_void(tmp_path):
    data = layout.load(make_davis(tmp_path), "DAVIS")
    (video,) = data.videos
    assert (video.name, len(video), video.objects, video.binary, video.size) == ("cat", 4, 2, False, (24, 32))
    assert set(np.unique(video.mask(0))) == {0, 1, 2}  # 255 is background
    assert layout.recognises(tmp_path) and "2017" in data.layout


def test_2016_has_0_and_255(tmp_path):
    data = layout.load(make_davis(tmp_path, "2016", objects=1), "DAVIS")
    (video,) = data.videos
    assert (video.objects, video.binary) == (1, True)
    assert set(np.unique(video.mask(2))) == {0, 1}


def test_2016s_own_lists_of_file_pairs(tmp_path):
    make_davis(tmp_path, "2016", objects=1)
    shutil.rmtree(tmp_path / "ImageSets")
    (tmp_path / "ImageSets" / "480p").mkdir(parents=True)
    lines = [f"/JPEGImages/480p/cat/{i:05}.jpg /Annotations/480p/cat/{i:05}.png" for i in range(4)]
    (tmp_path / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    assert [v.name for v in layout.load(tmp_path, "DAVIS").videos] == ["cat"]


def test_fingerprint_follows_the_contents(tmp_path):
    a = layout.load(make_davis(tmp_path / "a"), "DAVIS")
    b = layout.load(make_davis(tmp_path / "b"), "other")
    assert a.fingerprint == b.fingerprint
    mask = tmp_path / "b" / "Annotations" / "480p" / "cat" / "00002.png"
    mask.write_bytes(label_png(np.ones((24, 32), np.uint8)))
    assert layout.load(tmp_path / "b", "DAVIS").fingerprint != a.fingerprint


FAULTS = {
    "no frame": ("JPEGImages/480p/cat/00001.jpg", Path.unlink, "00001.jpg: missing, though its mask is there"),
    "no mask": ("Annotations/480p/cat/00002.png", Path.unlink, "00002.png: missing, though the frame is there"),
    "no first mask": ("Annotations/480p/cat/00000.png", Path.unlink, "00000.png: the first mask is absent"),
    "rgb mask": ("Annotations/480p/cat/00001.png", rgb, "00001.png: a mask in mode RGB"),
    "small frame": ("JPEGImages/480p/cat/00001.jpg", other_size, "00001.jpg: 16 x 12 pixels, but .* has 32 x 24"),
    "small mask": ("Annotations/480p/cat/00003.png", other_size, "00003.png: 16 x 12 pixels"),
    "empty file": ("JPEGImages/480p/cat/00003.jpg", lambda p: p.write_bytes(b""), "00003.jpg: not a readable image"),
    "empty mask": (
        "Annotations/480p/cat/00000.png",
        lambda p: p.write_bytes(label_png(np.zeros((24, 32), np.uint8))),
        "00000.png: the first mask is empty",
    ),
    "no video": ("JPEGImages/480p/cat", shutil.rmtree, "cat: no such folder"),
    "empty list": ("ImageSets/2017/val.txt", lambda p: p.write_text("\n"), "val.txt: empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_when_loading(fault, tmp_path):
    file, spoil, words = FAULTS[fault]
    spoil(make_davis(tmp_path) / file)
    with pytest.raises(UserError, match=words) as error:
        layout.load(tmp_path, "DAVIS")
    assert "\n" not in str(error.value)


def test_a_hole_in_the_numbering_is_named(tmp_path):
    make_davis(tmp_path, frames=6)
    (tmp_path / "JPEGImages/480p/cat/00003.jpg").unlink()
    (tmp_path / "Annotations/480p/cat/00003.png").unlink()
    with pytest.raises(UserError, match="frame 00003 is missing"):
        layout.load(tmp_path, "DAVIS")


def test_masks_alone_are_enough_for_what_only_scores(tmp_path):
    whole = layout.load(make_davis(tmp_path), "DAVIS")
    shutil.rmtree(tmp_path / "JPEGImages")
    assert not layout.recognises(tmp_path) and layout.recognises(tmp_path, masks_only=True)
    (video,) = layout.load(tmp_path, "DAVIS", masks_only=True).videos
    (complete,) = whole.videos
    assert (video.names, video.size, video.objects, len(video)) == (complete.names, complete.size, 2, 4)
    assert video.frames == () and (video.mask(1) == complete.mask(1)).all()
    (tmp_path / "Annotations" / "480p" / "cat" / "00001.png").unlink()
    with pytest.raises(UserError, match="frame 00001 is missing"):
        layout.load(tmp_path, "DAVIS", masks_only=True)


def paint(root, index, labels):
    (root / "Annotations" / "480p" / "cat" / f"{index:05}.png").write_bytes(label_png(labels))


def test_objects_that_come_in_later_are_not_scored_and_noted(tmp_path):
    root = make_davis(tmp_path)
    labels = layout.load(root, "DAVIS").videos[0].mask(2).copy()
    labels[20:, 20:] = 3
    paint(root, 2, labels)
    data = layout.load(root, "DAVIS")
    assert data.notes == (
        "cat: label 3 first appears after the first mask (00002.png) and is not scored, as in the official scorer",
    )
    assert set(np.unique(data.videos[0].mask(2))) == {0, 1, 2} and data.videos[0].objects == 2
    paint(root, 2, np.where(labels == 3, np.uint8(0), labels))
    assert layout.load(root, "DAVIS").notes == ()


#: Ways in which masks of two objects stop to be labels: what they become, and what is said of them.
IMPLAUSIBLE = {
    "numbered from 7": (lambda m: np.where(m == 2, 7, m), "2 labels 1, 7, not numbered from 1 without a gap"),
    "one object as 254": (lambda m: np.where(m > 0, 254, 0), "label 254, not numbered from 1"),
    "smoothed": (lambda m: cv2.GaussianBlur(m * 127, (5, 5), 1), "between 0 and 255: smoothed or JPEG-compressed"),
    "smoothed whole": (lambda m: cv2.GaussianBlur((m > 0) * np.uint8(255), (5, 5), 1), "smoothed or JPEG-compressed"),
    "through JPEG": (lambda m: np.asarray(jpeg((m > 0) * 255)), "smoothed or JPEG-compressed"),
    "every level": (lambda m: np.clip(np.arange(m.size).reshape(m.shape) % 254 + 1, 0, 254), "smoothed"),
    "a speck of 1": (lambda m: np.where(np.arange(m.size).reshape(m.shape) == 99, 1, (m > 0) * 255), "smoothed"),
}


def jpeg(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


@pytest.mark.parametrize("fault", IMPLAUSIBLE)
def test_values_that_nobody_drew_are_refused_before_scoring(fault, tmp_path):
    root = make_davis(tmp_path, size=(48, 64))
    change, words = IMPLAUSIBLE[fault]
    first = layout.load(root, "DAVIS").videos[0].mask(0)
    paint(root, 0, change(first.astype(np.uint8)).astype(np.uint8))
    with pytest.raises(UserError, match=words) as error:
        layout.load(root, "DAVIS")
    assert "00000.png" in str(error.value) and "\n" not in str(error.value)


def test_a_later_mask_with_smoothed_edges_is_refused_too(tmp_path):
    root = make_davis(tmp_path, "2016", objects=1)
    path = root / "Annotations/480p/cat/00002.png"
    Image.fromarray(cv2.GaussianBlur(np.asarray(Image.open(path)), (5, 5), 1)).save(path)
    with pytest.raises(UserError, match=r"00002\.png: .* smoothed"):
        layout.load(root, "DAVIS")


@settings(max_examples=30, deadline=None)
@given(objects=st.integers(1, 200))
def test_any_number_of_objects_numbered_from_one_is_taken(objects):
    labels = np.zeros((90, 160), np.uint8)
    for i in range(objects):
        row, column = divmod(i, 20)
        labels[9 * row : 9 * row + 6, 8 * column : 8 * column + 5] = i + 1
    assert objects_of("m.png", labels) == (objects, False)
    order = np.arange(256, dtype=np.uint8)
    order[objects] = 255
    assert objects_of("m.png", order[labels]) == ((objects - 1, False) if objects > 1 else (1, True))


def test_lists_take_byte_order_marks_line_ends_and_more_columns(tmp_path):
    root = make_davis(tmp_path)
    (root / "ImageSets/2017/val.txt").write_bytes("\ufeffcat 4 frames\r\n\r\n".encode())
    assert [video.name for video in layout.load(root, "DAVIS").videos] == ["cat"]
