"""The files that say ImageNet's classes: hostile and damaged ones."""

from __future__ import annotations

import os
import pickle
import random
import tarfile
import zipfile

import pytest
from helpers.imagenet import WNIDS, kaggle, kit, meta_bin, packed_kit, val
from helpers.labelled import write
from helpers.mutations import bytes_mutated

from dinobench.data.layouts.labelled import truth
from dinobench.errors import UserError

WANTED = {i: WNIDS[item.label] for i, (_, item) in enumerate(val(), 1)}
MADE = {"kit": kit, "packed": packed_kit, "meta.bin": meta_bin, "kaggle": kaggle}


@pytest.mark.parametrize("way", MADE)
def test_each_tells_the_same(tmp_path, way):
    MADE[way](tmp_path)
    found = truth.find(tmp_path)
    assert found is not None and truth.read(found) == WANTED


def fault(place, words):
    with pytest.raises(UserError, match=words) as caught:
        truth.read(place)
    assert "\n" not in str(caught.value)


def zipped(file, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("meta/data.pkl", content)
    return file


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_meta_bin_runs_nothing(tmp_path):
    file = tmp_path / "meta.bin"
    fault(zipped(file, pickle.dumps(({}, Malicious()))), r"not what torchvision .*system")
    fault(zipped(file, pickle.dumps(({}, [1]))), "no list of wnids")
    fault(zipped(file, pickle.dumps([1])), "not what torchvision")
    fault(zipped(file, pickle.dumps(({}, ["a"])), zipfile.ZIP_DEFLATED), "compressed")
    fault(write(file, pickle.dumps(({}, ["a"]))), "not what torchvision 0.6 or later writes")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("other.txt", "x")
    fault(file, "not what torchvision")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n", "its columns are not ImageId and PredictionString"),
        ("", "its columns are not"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001,\n", "line 2 names no image and class"),
        ("ImageId,PredictionString\ncat,n01 1 2 3 4\n", "line 2 names no image and class"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001,n01,x\n", "no table of validation images"),
        ("ImageId,PredictionString\n" + "".join(f"ILSVRC2012_val_00000001,n0{i} 1\n" for i in (1, 2)), "another class"),
    ],
)
def test_tables_that_are_none(tmp_path, text, words):
    fault(write(tmp_path / "LOC_val_solution.csv", text), words)


def test_archives_that_hold_too_much_or_nothing(tmp_path, monkeypatch):
    file = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(file, "w:gz"):
        pass
    fault(file, "holds no ILSVRC2012_validation_ground_truth.txt")
    packed_kit(tmp_path)
    monkeypatch.setattr(truth, "LIMIT", 100)
    fault(file, "more than 100 bytes")


@pytest.mark.parametrize("name", ["meta.bin", "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12/data/meta.mat"])
def test_mutated_files_are_read_or_refused(tmp_path, name):
    {"meta.bin": meta_bin, "ILSVRC2012_devkit_t12.tar.gz": packed_kit}.get(name, kit)(tmp_path)
    file, rng = tmp_path / name, random.Random(0)
    whole = file.read_bytes()
    place = file.parent if name.endswith("meta.mat") else file
    for _ in range(100):
        file.write_bytes(bytes_mutated(whole, rng))
        try:
            assert len(truth.read(place)) <= 2 * len(WANTED)
        except UserError as error:
            assert str(place) in str(error) and "\n" not in str(error)
