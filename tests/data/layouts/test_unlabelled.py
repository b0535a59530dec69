"""Images to pretrain on: any tree of them, tables with and without labels, and the train images of labelled sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.images import write_images

from dinobench.data import known_layouts, load_dataset
from dinobench.errors import UserError
from dinobench.types import TrainingImages


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))


def images(path: Path) -> TrainingImages:
    found = load_dataset(str(path), "images")
    assert isinstance(found, TrainingImages) and found.digests is not None
    assert len(found.digests) == len(found.train) and found.digests.any(axis=1).all()
    assert found.train.load(0).size == (24, 24)
    return found


@pytest.mark.parametrize(
    "names",
    [
        ["a.png"],
        ["a.png", "b.JPG", "deep/c.png", "deep/er/d.png", "deep/er/still/e.webp"],
        ["x/a.png", "y/b.png"],
        ["one folder/a.png"],
    ],
)
def test_a_folder_of_any_depth(tmp_path, names):
    found = images(write_images(tmp_path / "set", names))
    assert found.train.ids == tuple(sorted(names)) and found.classes == () and set(found.train.labels) == {-1}
    assert found.layout == "images (folder)" and found.train.name == "train"


@pytest.mark.parametrize("extra", [[], ["val/a/3.png"], ["val/c/3.png"], ["test/0.png"]])
def test_train_alone_counts_and_its_folders_are_classes(tmp_path, extra):
    """With a val or without, with classes of its own or none: the same images in the same places."""
    found = images(write_images(tmp_path / "set", ["train/b/1.png", "train/a/2.png", "train/a/z/0.png", *extra]))
    assert found.train.ids == ("train/a/2.png", "train/a/z/0.png", "train/b/1.png")
    assert found.classes == ("a", "b") and found.train.labels.tolist() == [0, 0, 1]


def test_train_images_of_a_labelled_set_are_the_same_as_for_scoring(tmp_path):
    root = write_images(
        tmp_path / "set", [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "ab" for i in range(3)]
    )
    found, scored = images(root), load_dataset(str(root))
    assert found.train.ids == scored.train.ids and found.train.fingerprint == scored.train.fingerprint
    assert np.array_equal(found.train.labels, scored.train.labels) and found.classes == scored.classes
    rows = "".join(f"train/{c}/{i}.png,{c}\n" for c in "ab" for i in range(3)) * 1
    (root / "list.csv").write_text(
        "path,label\n" + rows + "".join(f"val/{c}/{i}.png,{c}\n" for c in "ab" for i in "012")
    )
    found, scored = images(root / "list.csv"), load_dataset(str(root / "list.csv"))
    assert found.train.ids == scored.train.ids and found.train.fingerprint == scored.train.fingerprint


def test_images_beside_class_folders_have_no_label(tmp_path):
    found = images(write_images(tmp_path / "set", ["train/a/1.png", "train/b/1.png", "train/loose.png"]))
    assert found.train.ids == ("train/a/1.png", "train/b/1.png", "train/loose.png")
    assert found.train.labels.tolist() == [0, 1, -1]
    found = images(write_images(tmp_path / "flat", ["train/1.png", "train/2.png", "val/3.png"]))
    assert found.train.ids == ("train/1.png", "train/2.png") and found.classes == ()


@pytest.mark.parametrize(
    ("text", "ids", "classes"),
    [
        ("path\nb.png\na.png\n", ["b.png", "a.png"], ()),
        ("path,split\nb.png,train\na.png,val\nc.png,train\n", ["b.png", "c.png"], ()),
        ("path,label,split\nb.png,x,train\na.png,y,train\n", ["b.png", "a.png"], ("x", "y")),
        ("path,label\nb.png,x\na.png,x\n", ["b.png", "a.png"], ("x",)),
        ("path,label\nb.png,x\na.png,\n", ["b.png", "a.png"], ("x",)),
        ("path\nd/train/e.png\nd/val/f.png\n", ["d/train/e.png"], ()),
    ],
)
def test_tables_need_no_labels_and_no_test(tmp_path, text, ids, classes):
    root = write_images(tmp_path / "set", ["a.png", "b.png", "c.png", "d/train/e.png", "d/val/f.png"])
    for name in ("list.csv", "train.csv"):
        (root / name).write_text(text)
    found = images(root / "list.csv")
    assert list(found.train.ids) == ids and found.classes == classes
    alone = images(root)  # train.csv is all train's
    assert set(alone.train.ids) >= set(ids)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"val/a/1.png": None}, r"has val/ but no train/ to learn from; put train/ beside it, or give .*set/val"),
        ({"train/a/note.txt": ""}, "set: holds no images"),
        ({"note.txt": ""}, "layout not recognised"),
        ({"list.csv": "path,split\na.png,val\n", "a.png": None}, "names images of val only, and none to learn from"),
        ({"list.csv": "path\na.png\nb.png\n", "a.png": None}, r"1 of 2 files are missing, such as b\.png"),
        ({"list.csv": "path\na.png\n\"\"\n", "a.png": None}, "line 3: empty path; fill it in"),
        ({"list.csv": "file\na.png\n", "a.png": None}, "must name the column path"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from(tmp_path, files, words):
    for name, content in files.items():
        if content is None:
            write_images(tmp_path / "set", [name])
        else:
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_text(content)
    path = tmp_path / "set" / ("list.csv" if "list.csv" in files else "")
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(str(path), "images")
    assert "\n" not in str(caught.value)


def test_links_that_lead_back_are_walked_once(tmp_path):
    root = write_images(tmp_path / "set", ["a/1.png"])
    (root / "a" / "back").symlink_to(root)
    assert images(root).train.ids == ("a/1.png",)


def test_listings_name_each_layout_once():
    listed = [(name, summary) for _, name, summary in known_layouts()]
    assert len(listed) == len(set(listed)) and "images" in {name for name, _ in listed}
