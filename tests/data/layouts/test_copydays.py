from __future__ import annotations

import pytest
from helpers.copydays import folder, picture

from dinobench.data.layouts import copydays
from dinobench.errors import UserError


def strong_astray(root):
    (root / "strong/000101.jpg").rename(root / "strong/990101.jpg")


def original_gone(root):
    (root / "original/000200.jpg").unlink()


def copy_gone(root):
    (root / "jpegqual/3/000200.jpg").unlink()


def copy_too_many(root):
    picture(9).save(root / "jpegqual/3/777700.jpg")


def copy_out_of_order(root):
    (root / "jpegqual/3/000000.jpg").rename(root / "jpegqual/3/0005x.jpg")


def originals_alike(root):
    picture(9).save(root / "original/00009.jpg")


def originals_empty(root):
    for file in (root / "original").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (strong_astray, r"strong/990101\.jpg without original"),
        (original_gone, r"strong/000201\.jpg without original"),
        (copy_gone, r"5 images for 6 originals; no copy of original/000200\.jpg"),
        (copy_too_many, r"7 images for 6 originals; no original for jpegqual/3/777700\.jpg"),
        (copy_out_of_order, r"jpegqual/3/000100\.jpg stands where the copy of original/000000\.jpg is due"),
        (originals_alike, r"several names start with '0000'"),
        (originals_empty, r"original: holds no images"),
    ],
)
def test_layouts_that_do_not_match(tmp_path, damage, message):
    root = folder(tmp_path / "set")
    damage(root)
    with pytest.raises(UserError, match=message):
        copydays.load(root, "set")


def test_links_that_lead_back(tmp_path):
    root = folder(tmp_path / "set")
    (root / "distractors" / "deep").mkdir(parents=True)
    picture(70).save(root / "distractors" / "deep" / "a.png")
    (root / "distractors" / "deep" / "up").symlink_to(root / "distractors")
    assert copydays.load(root, "set").distractors.ids == ("distractors/deep/a.png",)


def test_fingerprint_follows_content(tmp_path):
    a = copydays.load(folder(tmp_path / "a"), "a")
    b = copydays.load(folder(tmp_path / "b"), "b")
    assert a.fingerprint == b.fingerprint
    picture(99).save(tmp_path / "b" / "strong" / "000001.jpg")
    assert copydays.load(tmp_path / "b", "b").fingerprint != a.fingerprint
