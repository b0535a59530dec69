"""The transfer sets: which images are learnt from, chosen on and scored, and of which class."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torchvision.datasets as theirs
from helpers.transfer import COLOURS, SETS
from scipy.io import savemat

from dinobench.data import load_dataset
from dinobench.data.layouts.transfer import KINDS
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")
WITH_VAL = {"dtd", "aircraft", "flowers102"}
TORCHVISION = {  # those that read these files without being given the archives' checksums
    "food101": (lambda root, split: theirs.Food101(root, split), ("train", "test")),
    "aircraft": (lambda root, split: theirs.FGVCAircraft(root, split), ("train", "val", "test")),
}


@pytest.mark.parametrize("which", SETS)
def test_each_set_is_read_as_its_archive_has_it(tmp_path, which):
    data = load_dataset(str(SETS[which](tmp_path / "somewhere")))
    assert data.name == which and data.layout == f"transfer ({which})"
    assert (data.report == "mean_per_class") == (which in {"aircraft", "pets", "flowers102", "caltech101"})
    if which == "caltech101":
        assert data.classes == ("ant", "yin_yang"), "less the background"
        assert Counter(data.train.labels.tolist()) == {0: 30, 1: 30} and len(data.test) == 3 + 5
        assert data.train.ids == load_dataset(str(tmp_path / "somewhere")).train.ids
    else:
        assert len(data.classes) == 3 and Counter(data.train.labels.tolist()) == {0: 6, 1: 6, 2: 6}
        assert Counter(data.test.labels.tolist()) == {0: 3, 1: 3, 2: 3}
    assert (data.val is not None) == (which in WITH_VAL)
    if data.val is not None:
        assert data.train.name == "train+val" and data.val.tolist() == list(range(12, 18))
    colours = {tuple(COLOURS[c]) for c in range(3)}
    for split in (data.train, data.test):  # the class that the lists name is the one that the picture shows
        shown = [min(colours, key=lambda c: np.abs(np.asarray(split.load(i)).mean((0, 1)) - c).sum())
                 for i in range(len(split))]  # fmt: skip
        assert len(set(zip(shown, split.labels.tolist(), strict=True))) == len(data.classes)


@pytest.mark.parametrize("which", TORCHVISION)
def test_torchvision_reads_the_same(tmp_path, which):
    data = load_dataset(str(SETS[which](tmp_path)))
    make, splits = TORCHVISION[which]
    found = {split: [(str(p).split(f"{k.folder}/")[1], label) for k in KINDS if k.name == which
                     for p, label in zip(d._image_files, d._labels, strict=True)]
             for split in splits for d in [make(str(tmp_path), split)]}  # fmt: skip
    train = [i for split in splits if split != "test" for i in found[split]]
    assert sorted(train) == sorted(zip(data.train.ids, data.train.labels.tolist(), strict=True))
    assert sorted(found["test"]) == sorted(zip(data.test.ids, data.test.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("which", "file", "content", "words"),
    [
        ("food101", "food-101/meta/train.json", "{", "no lists of images by class"),
        ("food101", "food-101/meta/test.json", "{}", "no images of food101's test split"),
        ("dtd", "labels/test1.txt", None, "cannot be read"),
        ("dtd", "labels/test1.txt", b"\xff", "no UTF-8 text"),
        ("sun397", "Partitions/Training_01.txt", "/a/hall0/sun_99.jpg\n", "files are missing, such as a/hall0/sun_99"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", "0000013\n", "has one word, not two"),
        ("cub200", "image_class_labels.txt", "1 1\n", "has no class or no split"),
        ("flowers102", "flowers-102/setid.mat", "no matlab", "cannot be read as MATLAB's file"),
        ("cars", "stanford_cars/devkit/cars_meta.mat", None, "cannot be read|No such file"),
    ],
)
def test_damaged_lists_are_told(tmp_path, which, file, content, words):
    root = SETS[which](tmp_path / "set")
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(str(root))
    assert "\n" not in str(caught.value)


def test_flowers_without_a_class_are_told(tmp_path):
    root = SETS["flowers102"](tmp_path)
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.array([[1, 2]])})
    with pytest.raises(UserError, match=r"names images that imagelabels.mat has no class for"):
        load_dataset(str(root))
