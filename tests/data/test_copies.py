"""Made copies: the layout, determinism, every kind of edit, and the manifest's word for what was done."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from dinobench.data.copies import make_copies
from dinobench.data.edits import EDITS, crop_share, recompress, warp
from dinobench.errors import UserError


def photo(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Smooth colour blobs: something JPEG, blur and crops act on as they do on photos."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i in range(7):
        photo(i).save(folder / ("sub" if i % 2 else ".") / f"p{i}.png")
    (folder / "notes.txt").write_text("not a photo")
    return folder


def tree(root):
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_layout_manifest_and_determinism(photos, tmp_path):
    manifest = make_copies(photos, tmp_path / "a", seed=3, jpeg_qualities=(3, 75), crops=(80,))
    again = make_copies(photos, tmp_path / "b", seed=3, jpeg_qualities=(3, 75), crops=(80,))
    make_copies(photos, tmp_path / "c", seed=4, jpeg_qualities=(3, 75), crops=(80,))
    files, other = tree(tmp_path / "a"), tree(tmp_path / "c")
    assert manifest == again and files == tree(tmp_path / "b")
    assert files["original/000000.jpg"] == other["original/000000.jpg"]
    assert files["strong/000001.jpg"] != other["strong/000001.jpg"]
    assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == manifest
    assert {c["file"] for c in manifest["copies"]} == set(files) - {"manifest.json"}
    assert sum(f.startswith("strong/") for f in files) == 14
    blocks = {"original", "strong", "jpegqual/3", "jpegqual/75", "crops/80"}
    assert {f.rsplit("/", 1)[0] for f in files} == blocks | {"manifest.json"}
    for row in manifest["copies"]:
        if row["file"].startswith("strong/"):
            assert 2 <= len(row["edits"]) <= 3 and row["file"][7:11] == row["original"][9:13]
    assert {e["edit"] for row in manifest["copies"] for e in row["edits"]} == set(EDITS)
    kept = Image.open(tmp_path / "a" / "crops" / "80" / "000000.jpg")
    assert kept.width * kept.height / (96 * 72) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_changes_the_picture_and_says_how(name):
    image, other = photo(0), photo(1, (50, 80))
    out, done = EDITS[name](image, np.random.default_rng(5), other)
    again, _ = EDITS[name](image, np.random.default_rng(5), other)
    assert out.mode == "RGB" and min(out.size) > 0
    assert np.array_equal(np.asarray(out), np.asarray(again))
    assert np.array_equal(np.asarray(image), np.asarray(photo(0))), "the original is left alone"
    assert out.size != image.size or not np.array_equal(np.asarray(out), np.asarray(image))
    json.dumps(done)
    tiny, _ = EDITS[name](photo(2, (3, 2)), np.random.default_rng(6), other)
    assert min(tiny.size) > 0


def test_building_blocks():
    image = photo(0)
    assert crop_share(image, 0.0).size == image.size
    corner = crop_share(image, 0.75, 1, 1)
    assert np.array_equal(np.asarray(corner), np.asarray(image)[36:, 48:])
    same = warp(image, [(0, 0), (1, 0), (1, 1), (0, 1)])
    assert np.abs(np.asarray(same).astype(int) - np.asarray(image))[1:-1, 1:-1].max() <= 1
    assert len(set(map(tuple, np.asarray(recompress(image, 3)).reshape(-1, 3)))) < 96 * 72


def test_refusals(photos, tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        make_copies(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photos"):
        make_copies(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        make_copies(photos, photos)
    (photos / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read"):
        make_copies(photos, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "photos"], "nothing half-made is left"
