"""VOC 2007's classification lists and annotations: what they say, and what is wrong with damaged ones."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.voc import CLASSES, make_voc2007

from dinobench.data import load_dataset
from dinobench.errors import UserError


@pytest.mark.parametrize("annotations", [False, True])
def test_lists_and_annotations_say_the_same(tmp_path, annotations):
    path, told = make_voc2007(tmp_path, annotations)
    data = load_dataset(str(path))
    learnt, asked = data.verdicts
    assert data.classes == CLASSES and data.name == "VOC2007" and data.layout.startswith("voc-classes")
    assert np.array_equal(learnt, np.concatenate([told["train"], told["val"]])) and np.array_equal(asked, told["test"])
    assert [len(data.train), len(data.test)] == [50, 40] and data.val.tolist() == list(range(30, 50))
    assert data.test.labels[0] == 0 and data.test.labels[1] == 1 and data.train.load(0).size == (16, 12)
    assert load_dataset(str(path / "VOC2007")).fingerprint == data.fingerprint


def test_what_images_show_is_part_of_the_fingerprint(tmp_path):
    path, _ = make_voc2007(tmp_path)
    before = load_dataset(str(path)).fingerprint
    file = path / "VOC2007" / "ImageSets" / "Main" / "cat_test.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].replace("-1", " 0"), *lines[1:]]))
    assert load_dataset(str(path)).fingerprint != before


def test_without_a_part_to_choose_on(tmp_path):
    path, _ = make_voc2007(tmp_path)
    main = path / "VOC2007" / "ImageSets" / "Main"
    for name in ("", *(f"{c}_" for c in CLASSES)):
        text = "".join((main / f"{name}{part}.txt").read_text() for part in ("train", "val"))
        (main / f"{name}trainval.txt").write_text(text)
        (main / f"{name}train.txt").unlink()
    data = load_dataset(str(path))
    assert data.val is None and data.train.name == "trainval" and len(data.train) == 50


def damage(main, how):
    if how == "listed twice":
        (main / "val.txt").write_text((main / "train.txt").read_text())
    elif how == "no verdict":
        (main / "cat_test.txt").write_text("000051 1\n")
    elif how == "odd verdict":
        (main / "cat_test.txt").write_text("000051 2\n")
    elif how == "no text":
        (main / "cat_test.txt").write_bytes(b"\xff")
    elif how == "no list of a class":
        (main / "cat_val.txt").unlink()
    elif how == "never shown":
        for part in ("train", "val"):
            file = main / f"cat_{part}.txt"
            file.write_text("".join(f"{line.split()[0]} -1\n" for line in file.read_text().splitlines()))
    elif how == "no image":
        (main.parents[1] / "JPEGImages" / "000003.jpg").unlink()
    elif how == "nothing tells":
        for file in main.glob("*_test.txt"):
            file.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("listed twice", r"val.txt: names 000001, which train.txt names too"),
        ("no verdict", "cat_test.txt: says nothing of 000052, which test.txt names"),
        ("odd verdict", "cat_test.txt: the line '000051 2' is no image with 1, -1 or 0"),
        ("no text", "cat_test.txt: no UTF-8 text"),
        ("no list of a class", "cat_val.txt: cannot be read"),
        ("never shown", "no image of train or val shows class cat"),
        ("no image", r"1 of the 90 images that .* lists are missing, such as JPEGImages/000003.jpg"),
        ("nothing tells", "000001.xml: cannot be read"),
    ],
)
def test_damage_is_told(tmp_path, how, words):
    path, _ = make_voc2007(tmp_path)
    damage(path / "VOC2007" / "ImageSets" / "Main", how)
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(str(path))
    assert "\n" not in str(caught.value)


def test_annotations_at_fault(tmp_path):
    path, _ = make_voc2007(tmp_path, annotations=True)
    folder = path / "VOC2007" / "Annotations"
    (folder / "000001.xml").write_text("<annotation><object></object></annotation>")
    with pytest.raises(UserError, match=r"000001.xml: an object has no name"):
        load_dataset(str(path))
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(UserError, match=r"has neither ImageSets/Main/<class>_test.txt nor Annotations/"):
        load_dataset(str(path))
