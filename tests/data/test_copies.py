"""Made copies: the layout, determinism, every kind of edit, and the manifest's word for what was done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from dinobench.data.copies import find_photos, make_copies
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
    assert manifest["originals"] == 7 and manifest["left_out"] == {".txt": 1}
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


def test_what_is_sorted_out_is_counted_and_unfinished_folders_are_no_photos(photos, tmp_path):
    for file in ("a.gif", "b.GIF", "c", ".hidden.png", ".other.x.partial/original/0.jpg"):
        (photos / file).parent.mkdir(parents=True, exist_ok=True)
        photo(9).save(photos / file, "PNG")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "linked").symlink_to(tmp_path)
    found, left_out = find_photos(photos)
    assert len(found) == 7
    assert left_out == {
        ".gif": 2, ".txt": 1, "hidden": 2, "links to folders": 1, "pipes or devices": 1, "without ending": 1,
    }  # fmt: skip
    for path in found:
        path.unlink()
    with pytest.raises(UserError, match=r"holds no photos .*; left out: 2 \.gif, 1 \.txt"):
        find_photos(photos)


def test_all_photos_that_cannot_be_read_are_named_before_anything_is_made(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("dinobench.data.copies._copies_of", lambda *a: pytest.fail("made"))
    for i in range(7):
        (photos / f"z{i}.jpg").write_bytes(b"not an image")
    (photos / "dangling.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"^8 of 15 photos cannot be read; .*dangling\.png .*z3\.jpg .*; and 3 more$"):
        make_copies(photos, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_names_that_are_no_text_are_photos_too(photos, tmp_path):
    os.rename(photos / "p0.png", os.fsencode(photos) + b"/\xff.png")
    assert make_copies(photos, tmp_path / "out", jpeg_qualities=(), crops=())["originals"] == 7


def test_folders_that_cannot_give_way_are_refused_before_the_work(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("dinobench.data.copies._copies_of", lambda *a: pytest.fail("made"))
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    for out, words in ((".", "current folder"), ("/proc", "exists already"), (tmp_path / "file", "exists already")):
        with pytest.raises(UserError, match=words):
            make_copies(photos, out)
    with pytest.raises(OSError):
        make_copies(photos, tmp_path / "file" / "out")


def test_a_link_to_an_empty_folder_is_filled(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    make_copies(photos, tmp_path / "link", jpeg_qualities=(), crops=())
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "manifest.json").is_file()


KILLED = """
import os, sys
from dinobench import files
from dinobench.data import copies
step = 0
def end(event, arguments):
    global step
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree") and armed:
        step += 1
        if step == int(sys.argv[3]):
            os.kill(os.getpid(), 9)
armed = True
sys.addaudithook(end)
copies.make_copies(sys.argv[1], sys.argv[2], strong=1, jpeg_qualities=(3,), crops=())
armed = False
print(step)
"""


@pytest.mark.slow
def test_killed_at_any_step_it_leaves_nothing_that_the_next_call_trips_over(photos, tmp_path):
    """The folder is as it was, empty or not there, or whole; the next call makes it and clears the rest away."""
    expected = tmp_path / "expected"
    make_copies(photos, expected, strong=1, jpeg_qualities=(3,), crops=())

    def call(out, step):
        command = [sys.executable, "-c", KILLED, str(photos), str(out), str(step)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    steps = int(call(tmp_path / "whole", -1).stdout)
    assert steps > 20
    work = tmp_path / "work"
    work.mkdir()
    chosen = sorted({1, 2, 3, steps - 3, steps - 2, steps - 1, steps, *range(5, steps, steps // 6)})
    for step in chosen:
        out = work / "out"
        if step % 2:
            out.mkdir()
        done = call(out, step)
        assert done.returncode == -9, done.stderr
        if (out / "manifest.json").exists():
            assert tree(out) == tree(expected)
        else:
            assert out.is_dir() == bool(step % 2) and not (out.is_dir() and any(out.iterdir()))
            make_copies(photos, out, strong=1, jpeg_qualities=(3,), crops=())
        assert tree(out) == tree(expected)
        assert [p.name for p in work.iterdir()] == ["out"]
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_living_call_keeps_its_folder_and_an_interrupted_one_takes_it_along(photos, tmp_path, number):
    work = tmp_path / "work"
    work.mkdir()
    for i in range(300):
        photo(i, (400, 300)).save(photos / f"many{i}.png")
    command = [sys.executable, "-m", "dinobench", "data", "make-copies", str(photos), str(work / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(work.glob(".out.*.partial/original/*.jpg")):
            assert process.poll() is None
            time.sleep(0.05)
        [living] = work.iterdir()
        few = tmp_path / "few"
        few.mkdir()
        photo(0).save(few / "a.png")
        make_copies(few, work / "out", jpeg_qualities=(), crops=())
        assert living.is_dir() and sorted(work.iterdir()) == sorted([living, work / "out"])
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and "interrupted" in error
    assert list(work.iterdir()) == [work / "out"]
