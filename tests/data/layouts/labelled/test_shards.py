"""Files of a set: which split they are of, and which are missing or of another set."""

from __future__ import annotations

import pytest
from helpers.labelled import write

from dinobench.data.layouts.labelled.shards import by_split, find, in_order, split_of
from dinobench.errors import UserError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00004-5af744adb8610bf6", "train"), ("imagenet1k-validation-63", "val"), ("dev", "val"),
        ("partial-train", "train"), ("TEST_01", "test"), ("trainer-0", ""), ("contest", ""), ("0000", ""),
        ("my.valid.0", "val"), ("evaluation", "test"), ("data", ""),
    ],
)  # fmt: skip
def test_a_split_is_a_word_of_the_name(name, split):
    assert split_of(name) == split


def test_numbers_are_ordered_by_value_whatever_else_is_there():
    assert in_order(["b2", "b10", "a", "10", "9x", "٣", "b"]) == ["9x", "10", "a", "b", "b2", "b10", "٣"]


def test_files_are_found_two_folders_deep(tmp_path):
    for name in ("train-0.tar", "data/val-1.tar", "a/test/2.tar", "a/other/3.tar", ".hidden.tar", "x/.git/4.tar"):
        write(tmp_path / name, b"")
    assert sorted(find(tmp_path, ".tar")) == ["a/test/2.tar", "data/val-1.tar", "train-0.tar"]
    assert find(tmp_path / "train-0.tar", ".tar") == ["train-0.tar"] and find(tmp_path / "nowhere", ".tar") == []
    (tmp_path / "test" / "class").mkdir(parents=True)
    assert find(tmp_path, ".tar") == [], "an ImageFolder, whatever lies beside it"


def test_splits_and_their_order(tmp_path):
    files = ["val/b.tar", "train/10.tar", "train/9.tar", "test/x.tar"]
    assert by_split(tmp_path, files) == {"train": ["train/9.tar", "train/10.tar"], "val": ["val/b.tar"],
                                         "test": ["test/x.tar"]}  # fmt: skip
    assert by_split(tmp_path, ["1.tar", "0.tar"]) == {"": ["0.tar", "1.tar"]}
    with pytest.raises(UserError, match=r"holds several data sets \(\., a, b\); give one"):
        by_split(tmp_path, ["a/train-0.tar", "b/train-0.tar", "train-0.tar"])
    with pytest.raises(UserError, match="2 of 3 files are missing, such as train-00000-of-00003; download them again"):
        by_split(tmp_path, ["train-00001-of-00003.tar"])
