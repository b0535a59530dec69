from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.davis import make_davis, other_size, rgb

from dinobench.data.layouts import davis as layout
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
