"""Class folders without a split: which folders are such, and what is in a draw from them."""

from __future__ import annotations

import pytest
from helpers.labelled import png, write

from dinobench.data import load_dataset
from dinobench.data.layouts.labelled.class_folders import recognises, undivided
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def grow(root, *names):
    for i, name in enumerate(names):
        write(root / name, png(i, i) if name.endswith("png") else b"")
    return root


def test_which_folders_are_such(tmp_path):
    assert undivided(grow(tmp_path / "a", "x/1.png", "y/deep/2.png"))
    assert not undivided(grow(tmp_path / "b", "train/x/1.png", "y/2.png"))
    assert not undivided(grow(tmp_path / "c", "1.png")) and not undivided(grow(tmp_path / "d", "x/note.txt"))
    assert not undivided(tmp_path / "c" / "1.png") and not recognises(tmp_path / "a")


def test_what_is_left_out_is_counted(tmp_path):
    root = grow(tmp_path / "set", *(f"{c}/{i}.png" for c in "xy" for i in range(4)), "x/5.gif", "note.txt", "y/.6.png")
    data = load_dataset(f"{root}@split=0.25")
    assert (len(data.train), len(data.test), data.classes) == (6, 2, ("x", "y"))
    assert data.notes[1] == "left out for their ending: 2 files (1 .txt, 1 .gif), such as note.txt"
    assert set(data.train.ids) | set(data.test.ids) == {f"{c}/{i}.png" for c in "xy" for i in range(4)}


def test_images_in_train_and_test_are_told(tmp_path):
    root = grow(tmp_path / "set", "x/0.png", "y/0.png")
    for i in range(1, 6):
        write(root / "x" / f"{i}.png", (root / "x" / "0.png").read_bytes())
        write(root / "y" / f"{i}.png", png(1, 50 + i))
    assert load_dataset(f"{root}@split=0.3").leak.startswith("leaked images: 2 of 4 test images are in train too")


def test_one_class_is_none(tmp_path):
    with pytest.raises(UserError, match=r"one class only \(x\)"):
        load_dataset(f"{grow(tmp_path / 'set', 'x/0.png', 'x/1.png')}@split=0.5")
