"""Damaged images are found before the first step; a run goes on with every image in its place, come what may."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from helpers.images import damage, write_images
from helpers.kills import every_kill

from dinobench import runtime
from dinobench.errors import UserError
from dinobench.pretrain import images
from dinobench.pretrain import run as runs
from dinobench.pretrain.methods.dino import Dino
from dinobench.pretrain.methods.supervised import Supervised

NAMES = [f"{i:02d}.png" for i in range(12)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def started():
    return runtime.start("cpu")


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path / "set", NAMES)


def a_run(root, **changes) -> runs.Run:
    return dataclasses.replace(runs.Run("dino", "vit_tiny", 16, 8, 1, str(root), {"decay_all": False}, "32"), **changes)


def test_broken_images_are_all_named_before_anything_is_written(root, started, tmp_path):
    for name in NAMES[2:9]:
        damage(root / name)
    with pytest.raises(UserError, match=r"7 of 12 images of .*set cannot be read: 02.*06\.png .* and 2 more; "):
        images.begin(a_run(root), tmp_path / "run", started)
    assert not (tmp_path / "run").exists()


def test_the_same_contents_are_decoded_once(root, started, monkeypatch):
    damage(root / NAMES[4])
    found = images.load(str(root), Dino)
    assert images.find_broken(found.train, started) == [4]
    monkeypatch.setattr(images, "is_readable", None)
    assert images.find_broken(found.train, started) == [4]


def test_left_out_images_are_noted_and_may_go_or_stay(root, started, tmp_path, capsys):
    damage(root / NAMES[4])
    run, data = images.begin(a_run(root, skip_broken=True), tmp_path / "run", started)
    assert "1 (04.png) of 12 images cannot be read and are left out" in capsys.readouterr().err
    kept = NAMES[:4] + NAMES[5:]
    assert run.left_out == ("04.png",) and list(data.train.ids) == kept and runs.read(tmp_path / "run") == run
    again = [images.go_on(run, tmp_path / "run", started)[1]]
    (root / NAMES[4]).unlink()
    again.append(images.go_on(run, tmp_path / "run", started)[1])
    write_images(root, [NAMES[4]])  # repaired
    again.append(images.go_on(run, tmp_path / "run", started)[1])
    for found in again:
        assert list(found.train.ids) == kept and found.train.fingerprint == run.fingerprint


def test_a_deleted_image_leaves_the_others_in_their_places(root, started, tmp_path, capsys):
    run, _ = images.begin(a_run(root), tmp_path / "run", started)
    (root / NAMES[0]).unlink()
    found, data = images.go_on(run, tmp_path / "run", started)
    assert list(data.train.ids) == [NAMES[1], *NAMES[1:]] and found.lost == (NAMES[0],)
    assert "1 (00.png) of 12 images cannot be read any more" in capsys.readouterr().err
    (root / NAMES[11]).unlink()  # and the next one in the list after the last is the first
    with pytest.raises(UserError, match=r"2 \(00\.png, 11\.png\) of 12 images are gone; .*--skip-broken"):
        images.go_on(found, tmp_path / "run", started)
    found, data = images.go_on(found, tmp_path / "run", started, skip_broken=True)
    assert list(data.train.ids) == [NAMES[1], *NAMES[1:11], NAMES[1]] and found.lost == (NAMES[0], NAMES[11])
    assert runs.read(tmp_path / "run").lost == found.lost


def test_an_image_damaged_since_is_named_and_may_be_left_out(root, started, tmp_path):
    run, _ = images.begin(a_run(root), tmp_path / "run", started)
    damage(root / NAMES[5])
    with pytest.raises(UserError, match=r"1 \(05\.png\) cannot be read any more; put back .*--resume .* --skip-broken"):
        images.go_on(run, tmp_path / "run", started)
    _, data = images.go_on(run, tmp_path / "run", started, skip_broken=True)
    assert list(data.train.ids) == [*NAMES[:5], NAMES[6], *NAMES[6:]]


@pytest.mark.parametrize("change", ["other pixels", "one more"])
def test_other_images_are_refused(change, root, started, tmp_path):
    run, _ = images.begin(a_run(root), tmp_path / "run", started)
    name = NAMES[3] if change == "other pixels" else "new.png"
    write_images(root, [name], seed=1)
    with pytest.raises(UserError, match=rf"not the images that .*run was trained on.*1 \({name}\) changed or came in"):
        images.go_on(run, tmp_path / "run", started)


def test_a_run_begun_before_lists_were_kept_goes_on(root, started, tmp_path):
    run, _ = images.begin(a_run(root), tmp_path / "run", started)
    (tmp_path / "run" / images.LISTING).unlink()
    images.go_on(run, tmp_path / "run", started)  # which makes the list
    (root / NAMES[7]).unlink()
    _, data = images.go_on(run, tmp_path / "run", started)
    assert data.train.ids[7] == NAMES[8]
    (tmp_path / "run" / images.LISTING).write_bytes(b"PK")
    with pytest.raises(UserError, match="not the images"):
        images.go_on(run, tmp_path / "run", started)


def test_a_beginning_killed_at_any_step_can_be_begun_again(root, started, tmp_path):
    folder = tmp_path / "run"

    def work():
        return images.begin(a_run(root), folder, started)

    images.find_broken(images.load(str(root), Dino).train, started)  # so that no thread is wanted after the fork
    for step in every_kill(work, folder):
        if (folder / "run.json").exists():
            assert list(images.go_on(runs.read(folder), folder, started)[1].train.ids) == NAMES, step
        assert list(work()[1].train.ids) == NAMES, step
        shutil.rmtree(folder)
    assert step > 4


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_the_rest_keeps_its_place(seed, root, started, tmp_path):
    """Against the list and its next-in-line rule written out."""
    rng = np.random.default_rng(seed)
    run, _ = images.begin(a_run(root), tmp_path / "run", started)
    lost = set(rng.choice(NAMES, int(rng.integers(1, 12)), replace=False).tolist())
    for name in lost:
        damage(root / name) if rng.random() < 0.5 else (root / name).unlink()
    _, data = images.go_on(run, tmp_path / "run", started, skip_broken=True)
    for place, name in enumerate(NAMES):
        while name in lost:
            place = (place + 1) % len(NAMES)
            name = NAMES[place]
        assert data.train.ids[NAMES.index(name)] == name
    assert len(data.train) == 12 and not lost & set(data.train.ids)


def test_methods_that_learn_from_labels_say_so(tmp_path, root, capsys):
    with pytest.raises(UserError, match=r"set: has no labels, and --method supervised learns .* train/<class>/"):
        images.load(str(root), Supervised)
    one = write_images(tmp_path / "one", ["train/a/1.png"])
    with pytest.raises(UserError, match=r"one: has one class \(a\), and --method supervised"):
        images.load(str(one), Supervised)
    mixed = write_images(tmp_path / "mixed", ["train/a/1.png", "train/b/1.png", "train/loose.png"])
    assert len(images.load(str(mixed), Dino).train) == 3
    assert images.load(str(mixed), Supervised).train.ids == ("train/a/1.png", "train/b/1.png")
    assert "1 images without a label are left out" in capsys.readouterr().err
