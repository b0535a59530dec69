"""ECSSD, DUTS and DUT-OMRON as they unpack."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.saliency import make_salient
from PIL import Image

from dinobench.data import load_dataset
from dinobench.data.layouts.saliency import PAIRS
from dinobench.errors import BrokenImage, UserError


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
def test_images_with_their_masks(tmp_path, pair):
    path = make_salient(tmp_path / "mine", pair)
    data = load_dataset(str(path), "masks")
    assert data.name == (pair[2] or "mine") and data.layout == "saliency"
    assert data.ids("classes") == ("0001", "0002", "0003") and data.notes == ()
    masks = data.masks("0001", "classes")
    assert masks.masks.shape == (1, 20, 30) and masks.masks.sum() == 8 * 10 and masks.void is None
    assert data.load("0001").size == (30, 20)
    assert data.masks("0003", "classes").masks.shape == (0, 20, 30), "nothing in it"
    with pytest.raises(UserError, match="do not tell objects apart"):
        data.ids("instances")
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(path / pair[1] / "0002.png")
    assert load_dataset(str(path), "masks").fingerprint != data.fingerprint


def test_what_is_left_out_is_told_and_what_is_missing_too(tmp_path):
    path = make_salient(tmp_path)
    (path / "images" / "0001.jpg").rename(path / "images" / "note.txt")
    assert load_dataset(str(path), "masks").notes == (
        "1 masks are left out, of which images/ has no image, such as 0001",
        "1 files are left out that are no images, such as images/note.txt",
    )
    (path / "images" / "0002.bmp").write_bytes((path / "images" / "0002.jpg").read_bytes())
    with pytest.raises(UserError, match=r"images/0002.bmp and images/0002.jpg have one name"):
        load_dataset(str(path), "masks")
    (path / "images" / "0002.bmp").unlink()
    (path / "ground_truth_mask" / "0003.png").unlink()
    with pytest.raises(UserError, match=r"images/0003.jpg has no mask in ground_truth_mask/"):
        load_dataset(str(path), "masks")
    for file in (path / "images").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="images: holds no images"):
        load_dataset(str(path), "masks")


def test_damaged_files_are_named(tmp_path):
    path = make_salient(tmp_path)
    data = load_dataset(str(path), "masks")
    (path / "images" / "0001.jpg").write_text("no image")
    (path / "ground_truth_mask" / "0001.png").write_text("no mask")
    with pytest.raises(BrokenImage, match=r"0001.jpg: not a readable image"):
        data.load("0001")
    with pytest.raises(BrokenImage, match=r"0001.png: not a readable mask"):
        data.masks("0001", "classes")
