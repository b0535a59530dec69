"""What `--data` accepts: names, paths, search roots, and what is said when nothing fits."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinobench import data
from dinobench.data import known_layouts, load_dataset
from dinobench.data.embedded import EmbeddedSet
from dinobench.errors import UserError


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DINOBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def image_folder(root: Path) -> Path:
    for i, name in enumerate(("train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / name)
    return root


def test_digits_are_scikit_learns_images_split_in_order() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits = load_dataset("digits")
    assert (digits.name, len(digits.train), len(digits.test)) == ("digits", 1347, 450)
    assert digits.train.ids[0] == "digits/0000" and digits.test.ids[-1] == "digits/1796"
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert labels.dtype == np.int64 and (labels == bunch.target).all()
    image = digits.test.load(7)
    assert image.mode == "RGB" and image.size == (8, 8)
    assert np.abs(np.asarray(image)[..., 1] * (16 / 255) - bunch.images[1347 + 7]).max() < 0.04
    assert load_dataset("mine=digits").name == "mine"
    assert load_dataset("mine=digits").fingerprint == digits.fingerprint


def test_splits_survive_pickling(tmp_path: Path) -> None:
    for dataset in (load_dataset("digits"), load_dataset(str(image_folder(tmp_path / "set")))):
        split = pickle.loads(pickle.dumps(dataset.test))
        assert split.fingerprint == dataset.test.fingerprint and list(split.ids) == list(dataset.test.ids)
        assert split.load(1).tobytes() == dataset.test.load(1).tobytes()


def test_names_and_search_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path / "one" / "set")
    image_folder(tmp_path / "two" / "other")
    monkeypatch.setenv("DINOBENCH_DATA", os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")]))
    assert load_dataset("other").name == "other"
    assert load_dataset("set/").name == "set"
    assert load_dataset("nice=set").name == "nice"
    assert load_dataset("./one/set").name == "set"
    image_folder(tmp_path / "k=20")  # a path with an equals sign is still a path
    assert load_dataset("k=20").name == "k=20"
    assert load_dataset("x=k=20").name == "x"
    assert load_dataset(str(tmp_path / "k=20")).name == "k=20"


def test_embedded_name_goes_before_a_folder_and_the_folder_stays_reachable(tmp_path: Path) -> None:
    image_folder(tmp_path / "digits")
    assert len(load_dataset("digits").train) == 1347
    assert len(load_dataset("./digits").train) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "digts",
            r"digts: no such file or folder, nor an embedded data set \(digits, drawings\) \(did you mean 'digits'\?\)",
        ),
        ("sett", r"did you mean 'set'\?\); set DINOBENCH_DATA"),
        ("name=nowhere", "nowhere: no such file or folder"),
        ("", "names nothing"),
        ("name=", "names nothing"),
        ("a.tar.gz", "an archive; unpack it"),
        (
            "empty",
            r"layout not recognised \(an empty folder\); .*classification are cifar: .*; imagefolder: ",
        ),
        ("stray", r"it holds a/, b/, c/, d/, e/ and 2 more"),
        ("note.txt", r"layout not recognised \(a file\b"),
        ("set/train", r"it holds a/, b/; its parent .*set reads as imagefolder"),
    ],
)
def test_what_cannot_be_resolved(tmp_path: Path, spec: str, message: str) -> None:
    image_folder(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    for letter in "abcdefg":
        (tmp_path / "stray" / letter).mkdir(parents=True)
    (tmp_path / "a.tar.gz").touch()
    (tmp_path / "note.txt").touch()
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(spec)
    assert "\n" not in str(caught.value)


def test_search_roots_are_named_when_they_do_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path / "deep" / "flowers")
    monkeypatch.setenv("DINOBENCH_DATA", str(tmp_path / "deep"))
    with pytest.raises(UserError, match=r"nor under DINOBENCH_DATA \(.*deep\).*did you mean 'flowers'"):
        load_dataset("flower")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "set") / "train" / "a"
    folder.chmod(0)
    try:
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            load_dataset("set")
    finally:
        folder.chmod(0o700)


def test_os_errors_of_a_layout_become_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    image_folder(tmp_path / "set")
    monkeypatch.setattr("dinobench.data.layouts.imagefolder.os.scandir", scandir)
    with pytest.raises(UserError, match=r"(train|val): cannot be read: Permission denied$"):
        load_dataset("set")


def test_kinds_are_open_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dinobench_test_layout.py").write_text(
        "NAME = 'pair'\nSUMMARY = 'two files. No more.'\n"
        "def recognises(path): return (path / 'pair.txt').exists()\n"
        "def load(path, name): return (name, path.name)\n"
        "def make(name): return ('made', name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(data.KINDS, "pairs", ("dinobench_test_layout",))
    embedded = EmbeddedSet("dinobench_test_layout:make", "the word `made`. No path.")
    monkeypatch.setitem(data.EMBEDDED, "pairs", {"made": embedded})
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pair.txt").touch()
    assert load_dataset("p=here", "pairs") == ("p", "here")
    assert load_dataset("made", "pairs") == ("made", "made")
    with pytest.raises(UserError, match="it reads as pair, for protocols on 'pairs' data"):
        load_dataset("here")
    with pytest.raises(UserError, match=r"'pair' \(did you mean 'pairs'\?\); known: classification"):
        load_dataset("here", "pair")
    listed = [("pairs", "made", "the word `made`. No path."), ("pairs", "pair", "two files. No more.")]
    assert [layout for layout in known_layouts() if layout[0] == "pairs"] == listed


def test_layouts_are_listed_with_their_trees() -> None:
    found = {name: summary for kind, name, summary in known_layouts() if kind == "classification"}
    assert list(found) == [
        "digits", "drawings", "cifar", "csv", "transfer", "imagenet", "save_to_disk", "parquet", "webdataset",
        "voc-classes", "imagefolder", "class_folders", "torchvision",
    ]  # fmt: skip
    assert all(len(summary) > 80 and "\n" not in summary for summary in found.values())
    assert found["imagefolder"].startswith("train/<class>/")


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = "import sys, dinobench.data; print([m for m in ('torch', 'PIL', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert done.stdout.strip() == "[]"
