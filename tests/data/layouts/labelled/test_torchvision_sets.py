"""torchvision's classes where their files are: the same images and labels as the class gives, and the same set as the
layout that reads it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as theirs
from helpers import transfer
from helpers.imagenet import tars
from helpers.labelled import folders, png, write
from helpers.torchvision_sets import COUNTS, SETS
from helpers.typed import assert_one_line

from dinobench.cli import main
from dinobench.data import load_dataset
from dinobench.data.layouts.labelled.torchvision_sets import CLASSES, SUMMARY
from dinobench.errors import UserError
from dinobench.types import TrainingImages

pytestmark = pytest.mark.usefixtures("own_cache")
UNDIVIDED = ("EuroSAT", "Caltech256")
WITH_VAL = ("Country211", "RenderedSST2")
FILES = (*UNDIVIDED, *WITH_VAL, "GTSRB")


@pytest.fixture(autouse=True)
def without_checksums(monkeypatch):
    """They are those of the real files."""
    for module in ("cifar", "stl10", "svhn", "flowers102", "fer2013", "mnist"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda file, md5=None: Path(file).is_file()
        )


def opened(name, root):
    """Split -> the class's object, as its documentation has it."""
    make = getattr(theirs, name)
    if name in UNDIVIDED:
        return {"": make(str(root))}
    if name in ("MNIST", "FashionMNIST", "KMNIST", "USPS"):
        return {"train": make(str(root), train=True), "test": make(str(root), train=False)}
    splits = {"train": "train", "test": "test"}
    if name in WITH_VAL:
        splits["val"] = "valid" if name == "Country211" else "val"
    return {ours: make(str(root), split=own) for ours, own in splits.items()}


@pytest.mark.parametrize("name", SETS)
def test_images_and_labels_are_the_class_s(tmp_path, name):
    SETS[name](tmp_path / "root")
    spec = f"torchvision:{name}:{tmp_path / 'root'}" + "@split=0.25" * (name in UNDIVIDED)
    data = load_dataset(spec)
    known = opened(name, tmp_path / "root")
    wanted = Counter((image.convert("RGB").tobytes(), int(label)) for d in known.values() for image, label in d)
    found = Counter((split.load(i).tobytes(), int(split.labels[i])) for split in (data.train, data.test)
                    for i in range(len(split)))  # fmt: skip
    assert found == wanted
    classes = 2 if name == "RenderedSST2" else 3
    assert len(np.unique(data.train.labels)) == classes and data.name == name.lower() + "@split=0.25,seed=0" * (
        name in UNDIVIDED
    )
    assert data.layout.startswith(f"torchvision {name} (")
    if name in UNDIVIDED:
        assert len(data.test) == classes and "test drawn here" in data.notes[0]
        return
    test = Counter((image.convert("RGB").tobytes(), int(label)) for image, label in known["test"])
    assert test == Counter((data.test.load(i).tobytes(), int(c)) for i, c in enumerate(data.test.labels))
    if name in WITH_VAL:
        assert data.val is not None and data.val.tolist() == list(range(COUNTS[0] * classes, len(data.train)))
        assert data.train.name == "train+val"
    names = getattr(known["train"], "classes", None)
    if names is not None:
        assert data.classes == tuple(map(str, names))
    assert load_dataset(f"mine={spec}").fingerprint == data.fingerprint


TRANSFER = {
    "Food101": ("food101", ""), "DTD": ("dtd", "dtd/dtd"), "SUN397": ("sun397", "SUN397"),
    "FGVCAircraft": ("aircraft", ""), "OxfordIIITPet": ("pets", "oxford-iiit-pet"), "Flowers102": ("flowers102", ""),
    "StanfordCars": ("cars", ""), "Caltech101": ("caltech101", "caltech101"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFER)
def test_transfer_sets_are_the_same_under_either_name(tmp_path, name):
    own, folder = TRANSFER[name]
    transfer.SETS[own](tmp_path / folder)
    data, plain = load_dataset(f"torchvision:{name}:{tmp_path}"), load_dataset(str(tmp_path / CLASSES[name].folder))
    assert data.fingerprint == plain.fingerprint and data.name == plain.name == own and data.layout == plain.layout


@pytest.mark.parametrize("name", ["DTD", "OxfordIIITPet", "Flowers102", "StanfordCars"])
def test_transfer_sets_have_the_images_and_splits_of_the_class(tmp_path, name):
    own, folder = TRANSFER[name]
    transfer.SETS[own](tmp_path / folder)
    data = load_dataset(f"torchvision:{name}:{tmp_path}")
    splits = {"DTD": ("train", "val"), "OxfordIIITPet": ("trainval",), "Flowers102": ("train", "val")}
    for split, parts in ((data.train, splits.get(name, ("train",))), (data.test, ("test",))):
        known = [getattr(theirs, name)(str(tmp_path), split=part) for part in parts]
        wanted = Counter((image.tobytes(), int(label)) for d in known for image, label in d)
        assert wanted == Counter((split.load(i).tobytes(), int(c)) for i, c in enumerate(split.labels))


def test_imagenet_and_imagenette(tmp_path):
    folders(tmp_path / "imagenette2")
    assert load_dataset(f"torchvision:Imagenette:{tmp_path}").name == "imagenette"
    folders(tmp_path / "root")
    assert load_dataset(f"torchvision:ImageNet:{tmp_path / 'root'}").layout == "imagefolder (train, val)"
    tars(tmp_path / "tars")
    with pytest.raises(UserError, match="has no train, which torchvision's ImageNet reads"):
        load_dataset(f"torchvision:ImageNet:{tmp_path / 'tars'}")


def test_cifar_goes_without_torchvision_s_pickle(tmp_path, monkeypatch):
    import pickle

    monkeypatch.setattr(theirs, "CIFAR100", None)
    rng = np.random.default_rng(0)
    for name, count in (("train", 6), ("test", 3)):
        batch = {"data": rng.integers(0, 256, (count, 3072), np.uint8), "fine_labels": [i % 3 for i in range(count)]}
        write(tmp_path / "cifar-100-python" / name, pickle.dumps(batch, 2))
    write(tmp_path / "cifar-100-python" / "meta", pickle.dumps({"fine_label_names": ["a", "b", "c"]}, 2))
    assert load_dataset(f"torchvision:CIFAR100:{tmp_path}").name == "cifar100"


def test_roots_are_searched(tmp_path, monkeypatch):
    SETS["GTSRB"](tmp_path / "somewhere")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("DINOBENCH_DATA", f"{tmp_path / 'empty'}:{tmp_path / 'somewhere'}:{tmp_path}")
    wanted = load_dataset("torchvision:GTSRB")
    assert load_dataset("torchvision:GTSRB:somewhere").fingerprint == wanted.fingerprint


def test_pretraining_gets_the_images_of_train(tmp_path):
    SETS["Country211"](tmp_path)
    found = load_dataset(f"torchvision:Country211:{tmp_path}", "images")
    assert isinstance(found, TrainingImages) and len(found.train) == 18 == len(found.digests)
    SETS["SVHN"](tmp_path)
    assert load_dataset(f"torchvision:SVHN:{tmp_path}", "images").train.in_memory


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def typed(*words):
        line = ["dinobench", "run", "--protocol", "knn", "--ckpt", "pixels:3", "--device", "cpu", "--json",
                "--set", "resize=3", "--set", "crop=3", "--set", "k=3", *words]  # fmt: skip
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return typed


def test_as_typed(run, tmp_path):
    SETS["GTSRB"](tmp_path / "data")
    for split, test in (("Training", "train"), ("Final_Test/Images", "val")):
        for i, file in enumerate(sorted((tmp_path / "data" / "gtsrb" / "GTSRB" / split).rglob("*.ppm"))):
            c = file.parent.name if test == "train" else f"{i % 3:05d}"
            write(tmp_path / "plain" / test / c / file.name, file.read_bytes())
    values = []
    for data in ("torchvision:GTSRB:data", "plain"):
        code, out, err = run("--data", data)
        assert code == 0, err
        (record,) = json.loads(out)
        values.append(record["metrics"])
    assert values[0] == values[1] and record["dataset"] == "plain"


def spoilt(root):
    write(root / "gtsrb" / "GT-final_test.csv", "Filename;ClassId\n../../../etc/x.ppm;1\n")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:Flower102:data", "did you mean 'Flowers102'"),
        ("torchvision:", "data set class of torchvision"),
        ("torchvision:GTSRB:nowhere", "nowhere: no such file or folder"),
        ("torchvision:MNIST:data", "data: has no MNIST/raw, which torchvision's MNIST reads"),
        ("torchvision:MNIST", "no MNIST/raw here or in a folder of DINOBENCH_DATA; name the root that the class takes"),
        ("torchvision:EuroSAT:data", "torchvision:EuroSAT: has no split; draw one with @split=0.2"),
        ("torchvision:GTSRB:data@split=0.2", "torchvision:GTSRB: has a split of its own; leave out @split=0.2"),
        ("torchvision:SVHN:data", "torchvision's SVHN cannot read it"),
        ("torchvision:Country211:data", "cannot read it"),
        ("torchvision:GTSRB:spoilt", "which lies elsewhere; download the set again"),
        ("torchvision:FashionMNIST:data", "pickles of an old torchvision are not read"),
        ("torchvision:DTD:data", "lacks the lists of DTD's images"),
    ],
)
def test_what_cannot_be_read_is_one_line(run, tmp_path, spec, words):
    for name in ("GTSRB", "EuroSAT"):
        SETS[name](tmp_path / "data")
    SETS["GTSRB"](tmp_path / "spoilt")
    spoilt(tmp_path / "spoilt")
    write(tmp_path / "data" / "train_32x32.mat", b"no matlab")
    for folder in ("country211/train", "FashionMNIST/raw", "FashionMNIST/processed", "dtd/dtd"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    assert_one_line(*run("--data", spec), words)


def test_only_for_images_with_classes(tmp_path):
    with pytest.raises(UserError, match="images with classes, for no protocol that scores videos"):
        load_dataset(f"torchvision:MNIST:{tmp_path}", "videos")


def test_broken_and_lost_images_are_counted_as_elsewhere(run, tmp_path):
    SETS["Country211"](tmp_path)
    (tmp_path / "country211" / "test" / "AD" / "1.jpg").write_bytes(png(0, 1)[:30])
    assert_one_line(*run("--data", "torchvision:Country211:."), "country211/test/AD/1.jpg")
    code, out, _ = run("--data", "torchvision:Country211:.", "--skip-broken")
    assert code == 0 and json.loads(out)[0]["broken_images"] == 1


def test_every_class_is_listed_and_there():
    assert all(hasattr(theirs, name) and name in SUMMARY for name in CLASSES)
