"""CIFAR's folders, against torchvision's reader, and pickles that are not what they say."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from dinobench.data import load_dataset
from dinobench.errors import UserError

PER_BATCH = 6


def write(file: Path, content: Any, protocol: int = 2) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content, protocol))


def batch(seed: int, **labels: list[int]) -> dict[str, Any]:
    data = np.random.default_rng(seed).integers(0, 256, (PER_BATCH, 3072), np.uint8)
    return {"batch_label": "some batch", "data": data, "filenames": ["x.png"] * PER_BATCH, **labels}


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "cifar-10-batches-py"
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        write(folder / name, batch(seed, labels=[(seed + i) % 2 for i in range(PER_BATCH)]))
    write(folder / "batches.meta", {"label_names": ["cat", "dog"], "num_vis": 3072})
    return folder


@pytest.fixture
def cifar100(tmp_path: Path) -> Path:
    folder = tmp_path / "data100" / "cifar-100-python"
    for seed, name in enumerate(["train", "test"]):
        fine = [(seed + i) % 3 for i in range(PER_BATCH)]
        write(folder / name, batch(seed, fine_labels=fine, coarse_labels=[0] * PER_BATCH))
    write(folder / "meta", {"fine_label_names": ["ant", "bee", "cow"], "coarse_label_names": ["all"]})
    return folder


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_same_as_torchvision(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = request.getfixturevalue(kind)
    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[kind]
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # of the real files
    dataset = load_dataset(str(folder))
    assert (dataset.name, dataset.layout) == (kind, f"cifar ({folder.name})")
    for split, train in ((dataset.train, True), (dataset.test, False)):
        theirs = reader(str(folder.parent), train=train)
        assert list(dataset.classes) == theirs.classes and len(split) == len(theirs)
        assert split.labels.dtype == np.int64 and split.labels.tolist() == theirs.targets
        for i, (image, _) in enumerate(theirs):
            assert split.load(i).tobytes() == image.tobytes()
    assert dataset.train.ids[:2] == ("train/00000", "train/00001") and dataset.test.ids[-1] == "test/00005"


def test_parent_folder_and_name(cifar10: Path, tmp_path: Path) -> None:
    assert load_dataset(str(cifar10.parent)).name == "cifar10"
    assert load_dataset(str(cifar10.parent)).fingerprint == load_dataset(f"mine={cifar10}").fingerprint
    cifar10.rename(tmp_path / "renamed")
    assert load_dataset(str(tmp_path / "renamed")).name == "cifar10"


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol(cifar10: Path, protocol: int) -> None:
    before = load_dataset(str(cifar10)).fingerprint
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        write(cifar10 / name, batch(seed, labels=[(seed + i) % 2 for i in range(PER_BATCH)]), protocol)
    assert load_dataset(str(cifar10)).fingerprint == before


def test_fingerprint_follows_pixels_and_labels(cifar10: Path) -> None:
    before = load_dataset(str(cifar10))
    write(cifar10 / "test_batch", batch(5, labels=[1] * PER_BATCH))
    relabelled = load_dataset(str(cifar10))
    assert relabelled.test.fingerprint == before.test.fingerprint and relabelled.fingerprint != before.fingerprint
    write(cifar10 / "test_batch", batch(6, labels=[1] * PER_BATCH))
    assert load_dataset(str(cifar10)).test.fingerprint != before.test.fingerprint


class Malicious:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch {}"), r"posix\.system|nt\.system"),
        ((eval, "open({!r}, 'w')"), r"builtins\.eval|__builtin__\.eval"),
        ((getattr, "{}", "upper"), r"builtins\.getattr|__builtin__\.getattr"),
        ((np.load, "{}"), r"numpy.*load"),
        ((open, "{}", "w"), r"io\.open"),
    ],
)
def test_pickles_that_run_code_are_refused_by_name(
    cifar10: Path, tmp_path: Path, call: tuple[Any, ...], name: str, protocol: int
) -> None:
    victim = tmp_path / "touched"
    function, *arguments = call
    attack = Malicious(function, *(a.format(str(victim)) for a in arguments))
    for file in ("data_batch_3", "batches.meta"):
        write(cifar10 / file, {"data": attack, "label_names": attack}, protocol)
        with pytest.raises(UserError, match=f"{file}: asks to run ({name}), .*do not trust this file"):
            load_dataset(str(cifar10))
    assert not victim.exists()


def rewrite(file: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        content = pickle.loads((folder / file).read_bytes())
        write(folder / file, {k: v for k, v in {**content, **changes}.items() if v is not None})

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "data_batch_4").unlink(), "data_batch_4 missing; unpack the whole archive again"),
        (lambda f: (f / "batches.meta").unlink(), "batches.meta missing"),
        (lambda f: os.truncate(f / "data_batch_2", 5000), "data_batch_2: truncated or damaged"),
        (lambda f: os.truncate(f / "test_batch", 0), "test_batch: truncated or damaged"),
        (lambda f: (f / "test_batch").write_text("<html>not found</html>"), "test_batch: truncated or damaged"),
        (lambda f: write(f / "test_batch", [1, 2]), "test_batch: holds no dictionary"),
        (rewrite("test_batch", data=None), "test_batch: no .n, 3072. uint8 array"),
        (rewrite("test_batch", data=np.zeros((6, 3071), np.uint8)), "test_batch: no .n, 3072. uint8 array"),
        (rewrite("test_batch", data=np.zeros((6, 3072))), "test_batch: no .n, 3072. uint8 array"),
        (rewrite("test_batch", labels=[0] * 5), "'labels' does not give each image one of 2 classes"),
        (rewrite("test_batch", labels=[0] * 5 + [2]), "'labels' does not give each image one of 2 classes"),
        (rewrite("test_batch", labels=None), "'labels' does not give each image"),
        (rewrite("batches.meta", label_names=None), "no list of label_names"),
        (rewrite("batches.meta", label_names=["cat"]), "no list of label_names"),
    ],
)
def test_damaged_archives(cifar10: Path, damage: Any, message: str) -> None:
    damage(cifar10)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(str(cifar10))
    assert str(cifar10) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_with_both_is_asked_about(cifar10: Path, cifar100: Path) -> None:
    cifar100.rename(cifar10.parent / cifar100.name)
    with pytest.raises(UserError, match="holds both cifar-10-batches-py and cifar-100-python; give one of them"):
        load_dataset(str(cifar10.parent))
    assert load_dataset(str(cifar10)).name == "cifar10"


def test_an_empty_cifar_folder_is_recognised_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(UserError, match="train, test, meta missing"):
        load_dataset(str(tmp_path / "cifar-100-python"))
