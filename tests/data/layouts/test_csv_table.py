"""CSV lists: how the split is decided, and every line that cannot be used."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.mutations import bytes_mutated
from PIL import Image

from dinobench.data import load_dataset
from dinobench.errors import UserError
from dinobench.types import ImageClassification


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(12):
        for folder in (".", "train", "val", "test", "x/train/a", "x/val/a"):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (i, len(folder), 0)).save(tmp_path / "set" / folder / f"{i}.png")
    return tmp_path / "set"


def table(root: Path, text: str, name: str = "list.csv") -> ImageClassification:
    (root / name).write_text(text, encoding="utf-8")
    dataset = load_dataset(str(root / name))
    assert isinstance(dataset, ImageClassification)
    return dataset


def test_split_column(root: Path) -> None:
    dataset = table(root, "path,label,split\n0.png,b,train\n1.png,a,Train\n2.png,b,val\n3.png,a,test\n")
    assert (dataset.name, dataset.layout) == ("list", "csv (split column: train, val, test ignored)")
    assert dataset.classes == ("a", "b") and dataset.test.name == "val"
    assert dataset.train.ids == ("0.png", "1.png") and dataset.train.labels.tolist() == [1, 0]
    assert dataset.test.ids == ("2.png",) and dataset.test.labels.tolist() == [1]
    assert dataset.train.load(1).getpixel((0, 0)) == (1, 1, 0)


def test_columns_in_any_order_with_others_between_a_byte_order_mark_and_quotes(root: Path) -> None:
    (root / "a, b.png").write_bytes((root / "0.png").read_bytes())
    dataset = table(
        root, '\ufeffsplit, Label ,note,path\r\ntrain,NA,,"a, b.png"\r\ntrain,1,x,.\\1.png\r\n\r\ntest,NA,,./2.png\r\n'
    )
    assert dataset.train.ids == ("a, b.png", "1.png") and dataset.test.ids == ("2.png",)
    assert dataset.classes == ("1", "NA")


@pytest.mark.parametrize("prefix", ["", "x/"])
def test_folders_decide(root: Path, prefix: str) -> None:
    inner = f"{prefix}{{}}{'/a' if prefix else ''}/{{}}.png"
    paths = [inner.format(split, i) for split in ("train", "val") for i in (0, 1)]
    dataset = table(root, "path,label\n" + "".join(f"{p},{i % 2}\n" for i, p in enumerate(paths)))
    assert dataset.layout == "csv (folders: train, val)"
    assert [*dataset.train.ids, *dataset.test.ids] == paths


def test_absolute_paths_are_read_from_where_they_part(root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "test" / "set"  # would make everything test
    moved.parent.mkdir()
    root.rename(moved)
    lines = [f"{moved}/{split}/{i}.png,{i}" for split in ("train", "val") for i in (0, 1)]
    dataset = table(tmp_path, "path,label\n" + "\n".join(lines))
    assert dataset.layout == "csv (folders: train, val)" and len(dataset.train) == len(dataset.test) == 2
    assert dataset.test.load(1).getpixel((0, 0)) == (1, 3, 0)


def test_every_fifth_of_each_class(root: Path) -> None:
    labels = "aabaabaaabbb"  # the 5th a is image 6, the 5th b is image 11
    dataset = table(root, "path,label\n" + "".join(f"{i}.png,{c}\n" for i, c in enumerate(labels)))
    assert dataset.layout == "csv (every fifth image of each class, in file order, is test)"
    assert dataset.test.ids == ("6.png", "11.png")
    assert len(dataset.train) == 10 and not set(dataset.train.ids) & set(dataset.test.ids)


def test_one_file_for_each_split(root: Path) -> None:
    (root / "train.csv").write_text("path,label\n0.png,a\n1.png,b\n")
    (root / "test.csv").write_text("path,label\n2.png,b\n")
    dataset = load_dataset(str(root))
    assert (dataset.name, dataset.layout, dataset.test.name) == ("set", "csv (train.csv, test.csv)", "test")
    (root / "val.csv").write_text("path,label\n3.png,a\n")
    assert load_dataset(str(root)).test.ids == ("3.png",)


def test_train_csv_alone_in_an_image_folder_is_only_a_note(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "val/a/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "train.csv").touch()
    assert load_dataset(str(tmp_path)).layout == "imagefolder (train, val)"


HEAD = "path,label,split\n0.png,a,train\n1.png,b,train\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must name the columns path,label; it is ''"),
        ("0.png,a\n1.png,b\n", "must name the columns path,label; it is '0.png,a'"),
        ("path;label\n0.png;a\n", "must name the columns path,label; it is 'path;label'"),
        ("path,label\n", "names no images"),
        (HEAD.replace("split", "splits"), r"unknown column 'splits' \(did you mean 'split'\?\)"),
        (HEAD.replace("split", "Spilt"), r"unknown column 'spilt' \(did you mean 'split'\?\)"),
        (HEAD.replace("split", "subset"), "column 'subset' says train or test on every line; call it split"),
        (HEAD.replace("label", "labels"), "must name the columns path,label"),
        (HEAD.replace("split", "path"), "the column path is there twice"),
        (HEAD + "2.png,a\n", "line 4: 2 fields for 3 columns"),
        (HEAD + "2.png,a,test,x\n", "line 4: 4 fields for 3 columns; quote values with commas"),
        (HEAD + '"2.png,a,test\n', "line 4: not a comma-separated table"),
        (HEAD + "2.png,,test\n", "line 4: empty path or label"),
        (HEAD + ",a,test\n", "line 4: empty path or label"),
        (HEAD + "2.png,a,dev\n", "line 4: split 'dev' is none of train, val, validation, test"),
        (HEAD, "split column name only train; both train and one of val, validation or test are needed"),
        ("path,label\ntest/0.png,a\nval/1.png,b\n", "folders name only test, val"),
        ("path,label\ntrain/0.png,a\n1.png,b\n", r"1.png \(list.csv line 3\) lies under no train, val or test folder"),
        ("path,label\n0.png,a\n1.png,b\n", "no class has 5 images, so none is left to score on"),
        (HEAD + "2.png,c,test\n", "test has class c that train lacks"),
        ("path,label,split\n0.png,a,train\n1.png,a,test\n", r"train holds one class only \(a\)"),
        (
            HEAD + "0.png,a,test\n",
            r"0.png is listed twice \(list.csv line 2 and list.csv line 4\)",
        ),
        (HEAD + "./x/../0.png,a,test\n", "0.png is listed twice"),
        (
            HEAD + "9x.png,a,test\nno.png,b,test\n",
            r"2 of 4 files are missing, such as 9x.png \(list.csv line 4\); paths are",
        ),
        (HEAD + "train,a,test\n", r"1 of 3 files are missing, such as train \(list.csv line 4\)"),
    ],
)
def test_what_cannot_be_used(root: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        table(root, text)
    assert str(root / "list.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_other_encodings_and_binaries(root: Path) -> None:
    (root / "list.csv").write_bytes("path,label\nbär.png,ä\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8 text .*save it as UTF-8"):
        load_dataset(str(root / "list.csv"))
    (root / "list.csv").write_bytes(b"path,label\n\0\0\n")
    with pytest.raises(UserError, match=r"list\.csv"):
        load_dataset(str(root / "list.csv"))


def test_train_csv_without_a_partner(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\n0.png,a\n")
    with pytest.raises(UserError, match=r"has train\.csv but no val\.csv or test\.csv to score on"):
        load_dataset(str(tmp_path))


def test_duplicates_across_files_name_both(root: Path) -> None:
    (root / "train.csv").write_text("path,label\n0.png,a\n1.png,b\n")
    (root / "val.csv").write_text("path,label\n1.png,b\n")
    with pytest.raises(UserError, match=r"1\.png is listed twice \(train\.csv line 3 and val\.csv line 2\)"):
        load_dataset(str(root))


WHOLE = HEAD + "".join(f"{i}.png,{'ab'[i % 2]},{'test' if i > 6 else 'train'}\n" for i in range(2, 12))


@pytest.mark.parametrize("seed", range(5))
def test_mutated_tables_are_read_or_refused_in_one_line(root: Path, seed: int) -> None:
    """500 in all: what is read holds images of the folder, each once, and only those that the table still names."""
    rng = random.Random(seed)
    read = 0
    for _ in range(100):
        content = bytes_mutated(WHOLE.encode(), rng)
        (root / "list.csv").write_bytes(content)
        try:
            dataset = load_dataset(str(root / "list.csv"))
        except UserError as error:
            assert "list.csv" in str(error) and "\n" not in str(error)
            continue
        ids = [*dataset.train.ids, *dataset.test.ids]
        assert len(set(ids)) == len(ids) and all((root / name).is_file() for name in ids)
        read += 1
    assert read  # not everything is refused
