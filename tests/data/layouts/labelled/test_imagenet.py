"""ImageNet as it is handed out: which class each validation image is of, and archives instead of folders."""

from __future__ import annotations

import json
import os

import pytest
from helpers.imagenet import WNIDS, devkit, flat_val, kaggle, meta_bin, packed_kit, tars, train, val
from helpers.labelled import items, pack, png, write

from dinobench.data import load_dataset, load_datasets
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def fault(root, words, kind="classification"):
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(str(root), kind)
    assert "\n" not in str(caught.value)


def plain(root, truth):
    train(root)
    flat_val(root)
    truth(root)
    return root


WAYS = {
    "devkit": (devkit, "", "ILSVRC2012_validation_ground_truth.txt"),
    "packed devkit": (lambda r: plain(r, packed_kit), "", "ILSVRC2012_devkit_t12.tar.gz"),
    "torchvision": (lambda r: plain(r, meta_bin), "", "meta.bin"),
    "kaggle": (kaggle, "", "LOC_val_solution.csv"),
    "kaggle's folder": (kaggle, "ILSVRC/Data/CLS-LOC", "LOC_val_solution.csv"),
    "kaggle's middle": (kaggle, "ILSVRC", "LOC_val_solution.csv"),
    "tars": (tars, "", "ILSVRC2012_devkit_t12.tar.gz"),
}


@pytest.mark.parametrize("way", WAYS)
def test_classes_are_told_by_any_of_the_files(tmp_path, way):
    make, inside, told = WAYS[way]
    data = load_dataset(str(make(tmp_path / "set") / inside))
    assert (data.name, data.layout) == ("set", f"imagenet, classes from {told} (train, val)")
    assert data.classes == WNIDS and data.test.ids == tuple(f"val/{name}" for name, _ in val())
    for i, (_, item) in enumerate(val()):
        assert data.test.labels[i] == item.label
    assert [i.split("/")[1] for i in data.train.ids] == [WNIDS[item.label] for item in items()["train"]]
    assert data.train.load(17).tobytes() == data.train.load(17).tobytes() != data.train.load(16).tobytes()
    assert data.fingerprint == load_dataset(str(devkit(tmp_path / "other"))).fingerprint, "packed or not"


def test_the_labels_are_those_that_torchvision_sorts_val_by(tmp_path, monkeypatch):
    from torchvision.datasets import imagenet

    monkeypatch.setattr(imagenet, "_verify_archive", lambda *_: None)  # of the real files' checksums
    root = plain(tmp_path / "set", packed_kit)
    data = load_dataset(str(root))
    pack(root / "ILSVRC2012_img_val.tar", *[(name, item.content) for name, item in val()])
    (root / "val").rename(root / "flat")
    theirs = imagenet.ImageNet(str(root), "val")  # writes meta.bin and class folders
    found = {os.path.basename(file): theirs.wnids[label] for file, label in theirs.samples}
    ours = {i.removeprefix("val/"): data.classes[c] for i, c in zip(data.test.ids, data.test.labels, strict=True)}
    assert found == ours
    sorted_ = load_dataset(str(root))
    assert sorted_.layout == "imagefolder (train, val)" and sorted_.train.fingerprint == data.train.fingerprint
    (root / "val").rename(root / "by class")
    (root / "flat").rename(root / "val")
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert load_dataset(str(root)).fingerprint == data.fingerprint, "from the meta.bin that it has written"


def test_test_sets_that_know_the_images_by_number_find_them(tmp_path):
    root = devkit(tmp_path / "set")
    (tmp_path / "real.json").write_text(json.dumps([[0, 2]] * 12))
    (data,) = load_datasets(str(root), "classification", [f"real={tmp_path / 'real.json'}"])
    assert len(data.test) == 12


def test_pretraining_does_not_look_at_val(tmp_path):
    root = kaggle(tmp_path / "set")
    found = load_dataset(str(root), "images")
    assert len(found.train) == 18 and found.classes == WNIDS and found.layout == "images (train)"
    packed = load_dataset(str(tars(tmp_path / "tars")), "images")
    assert packed.train.fingerprint == found.train.fingerprint and packed.classes == found.classes


def lose(*names):
    def spoil(root):
        for name in names:
            (root / name).unlink()

    return spoil


KIT = "ILSVRC2012_devkit_t12/data"
LINES = f"{KIT}/ILSVRC2012_validation_ground_truth.txt"
FAULTS = {
    "no truth": (lambda r: (r / KIT).rename(r / "away"), "nothing beside it says their classes; put ILSVRC2012_devkit"),
    "lost": (lose("val/ILSVRC2012_val_00000005.JPEG"), "1 of 12 validation images are missing, such as .*05.JPEG"),
    "more": (lambda r: write(r / "val/ILSVRC2012_val_00000013.JPEG", png(0, 1)), "13.JPEG: no image that .* class"),
    "other": (lambda r: write(r / "val/cat.JPEG", png(0, 1)), "val/cat.JPEG: no image that .* has a class for"),
    "no meta": (lose(f"{KIT}/meta.mat"), "meta.mat: cannot be read: No such file"),
    "bad meta": (lambda r: write(r / KIT / "meta.mat", b"MATLAB 5.0" * 100), "meta.mat: holds no synsets"),
    "bad line": (lambda r: write(r / LINES, "1\ncat\n"), "names no class of meta"),
    "no class": (lambda r: write(r / LINES, "7\n" * 12), "names no class of meta"),
    "shift": (lambda r: [f.unlink() for f in (r / "train" / WNIDS[1]).iterdir()], "a class without images"),
    "foreign": (lambda r: (r / "train" / WNIDS[1]).rename(r / "train" / "n09"), f"val has class {WNIDS[1]} that train"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_line(tmp_path, name):
    spoil, words = FAULTS[name]
    root = devkit(tmp_path / "set")
    spoil(root)
    fault(root, words)


def inner(root, *members):
    pack(root / "ILSVRC2012_img_train.tar", *members)


PACKED = {
    "no archives": (lambda r: inner(r, ("n01440764/a.JPEG", png(0, 1))), "holds no archives of classes"),
    "twice": (lambda r: inner(r, *[("n01440764.tar", pack(r / "x.tar", ("a.JPEG", png(0, 1))).read_bytes())] * 2),
              "two archives called n01440764.tar"),
    "empty": (lambda r: inner(r, ("n01440764.tar", pack(r / "x.tar").read_bytes())), "n01440764.tar holds no images"),
    "text": (lambda r: inner(r, ("n01440764.tar", b"hello" * 200)), "no tar archive that can be read"),
    "one name": (lambda r: inner(r, ("n1.tar", pack(r / "x.tar", *[("a.JPEG", png(0, 1))] * 2).read_bytes())),
                 "two files called train/n1/a.JPEG"),
    "no devkit": (lambda r: write(r / "ILSVRC2012_devkit_t12.tar.gz", b"no"), "no archive that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_faults_of_archives_are_one_line(tmp_path, name):
    spoil, words = PACKED[name]
    root = tars(tmp_path / "set")
    spoil(root)
    fault(root, words)


def test_class_folders_are_no_business_of_this_layout(tmp_path):
    root = devkit(tmp_path / "set")
    (root / "val").rename(root / "flat")
    for name, item in val():
        write(root / "val" / WNIDS[item.label] / name, item.content)
    assert load_dataset(str(root)).layout == "imagefolder (train, val)"
