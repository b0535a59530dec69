"""Images to pretrain on: any folder or table of them, with labels or without, and no test split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts import csv_table
from dinobench.data.layouts.copydays import list_images
from dinobench.data.layouts.imagefolder import EXTENSIONS, TEST_FOLDERS, note_left_out, scan_split
from dinobench.data.layouts.labelled import parquet, saved, webdataset
from dinobench.errors import UserError
from dinobench.types import TrainingImages

NAME = "images"
SUMMARY = (
    "a folder of images, in it and in folders at any depth below it, or a .csv file with the column path. "
    "For `dinobench pretrain`, which needs neither labels nor a test split. Where the folder has train/, its images "
    "alone count, and the folders in it are classes for methods that learn from labels; a table may have the columns "
    "label and split, or stand as train.csv in a folder. A set that can be scored on too gives its train images."
)


default_name = csv_table.default_name


def recognises(path: Path) -> bool:
    """A table, a folder with train/ or a test folder, or one with an image at any depth."""
    if csv_table.recognises(path):
        return True
    if not path.is_dir():
        return False
    splits = any((path / split).is_dir() for split in ("train", *TEST_FOLDERS))
    return _any_image(path) or (splits and not _packed(path))


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> TrainingImages:
    """List and hash the images; they are decoded later. Raises UserError where there are none, or some are missing."""
    root = path.parent if path.is_file() else path
    left_out: list[str] = []
    if csv_table.recognises(path):
        how, ids, labels = _from_table(path, root)
    elif (path / "train").is_dir():
        how, ids, labels = _from_train(path, left_out)
    elif tests := [split for split in TEST_FOLDERS if (path / split).is_dir()]:
        raise UserError(
            f"{path}: has {tests[0]}/ but no train/ to learn from; put train/ beside it, or give {path / tests[0]}"
        )
    else:
        how, ids = "folder", list_images(path, deep=True, left_out=left_out)
        labels = [""] * len(ids)
    if not ids:
        raise UserError(f"{path}: holds no images ({' '.join(EXTENSIONS)})")
    classes = sorted({label for label in labels if label})
    index = {c: i for i, c in enumerate(classes)}
    numbers = np.array([index.get(label, -1) for label in labels], np.int64)
    digests = fingerprint.hash_files(root, ids, path, progress)
    split = FileSplit("train", str(root.absolute()), tuple(ids), numbers, fingerprint.of_files(ids, digests))
    notes = (note,) if (note := note_left_out(sorted(set(left_out)))) else ()
    return TrainingImages(name, f"{NAME} ({how})", tuple(classes), split, digests, notes)


def _from_train(path: Path, left_out: list[str]) -> tuple[str, Sequence[str], Sequence[str]]:
    """(how, images, class of each or ""): classes in ImageFolder's order, then what lies beside their folders."""
    loose = list_images(path, "train", deep=False, left_out=left_out)
    with os.scandir(path / "train") as entries:
        folders = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    ids, labels = scan_split(path, "train", left_out, complete=False) if any(map(_any_image, folders)) else ([], [])
    return "train", [*ids, *loose], [*labels, *[""] * len(loose)]


def _from_table(path: Path, root: Path) -> tuple[str, Sequence[str], Sequence[str]]:
    """(how, images, label of each or ""): those that a table with a test split learns from, else all of train's."""
    file = path if path.is_file() else path / "train.csv"
    rows = csv_table.read(file, labelled=False)
    if path.is_file():
        how, rows = _train_rows(path, rows)
    else:
        how = "train.csv"
    csv_table.check_files(path, root, rows)
    return how, [row.path for row in rows], [row.label for row in rows]


def _train_rows(file: Path, rows: list[csv_table.CsvRow]) -> tuple[str, list[csv_table.CsvRow]]:
    places = [row.split for row in rows] if rows[0].split else csv_table.split_folders(rows)
    if not any(places):
        if all(row.label for row in rows):
            try:
                how, splits = csv_table.divide(file, rows)
            except UserError:
                pass  # too few of every class for a test split, which nobody needs here
            else:
                return how, splits["train"]
        return "every line", rows
    if chosen := [row for row, place in zip(rows, places, strict=True) if place == "train"]:
        return "train", chosen
    raise UserError(f"{file}: names images of {', '.join(sorted(set(places) - {''}))} only, and none to learn from")


def _packed(path: Path) -> bool:
    """Whether the images lie in larger files, which layouts of their own are for."""
    return saved.recognises(path) or parquet.recognises(path) or webdataset.recognises(path)


def _any_image(folder: Path) -> bool:
    """A quick look: stops at the first."""
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(current)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in folders if not f.startswith(".")]
        if any(f.lower().endswith(EXTENSIONS) and not f.startswith(".") for f in files):
            return True
    return False
