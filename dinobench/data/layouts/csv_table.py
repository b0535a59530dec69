"""A CSV of path,label, for data that lie in any folders."""

from __future__ import annotations

import csv
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import from_files
from dinobench.data.layouts.imagefolder import require_text
from dinobench.errors import UserError, nearest
from dinobench.types import ImageClassification

NAME = "csv"
SUMMARY = (
    "a .csv file with the columns path,label and maybe split, or a folder with train.csv and val.csv or test.csv. "
    "Paths are relative to the file. split is train, val or test. Without it, a folder called train, val or test in "
    "every path decides; else every fifth image of each class, in the file's order, is the test set. val goes before "
    "validation and test where several exist."
)
TESTS = ("val", "validation", "test")
#: How like a known column another one must be to count as a misspelling of it, by difflib's ratio.
TYPO = 0.75
FIFTH = 5  # one image in five is the test set where nothing else decides


class CsvRow(NamedTuple):
    """One line of the file; `split` is empty where the file has no such column."""

    path: str
    label: str
    split: str
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file} line {self.line}"


def recognises(path: Path) -> bool:
    """A .csv file, or a folder whose train.csv is not merely a note beside an ImageFolder."""
    if path.is_file():
        return path.suffix.lower() == ".csv"
    return (path / "train.csv").is_file() and (bool(_test_files(path)) or not (path / "train").is_dir())


def default_name(path: Path) -> str:
    """The file's name without its ending, or the folder's."""
    return path.resolve().stem if path.is_file() else path.resolve().name


def load(path: Path, name: str, progress: Progress | None = None) -> ImageClassification:
    """Read the file or files and hash the images. Raises UserError for every way in which they do not fit."""
    if path.is_file():
        root, (how, splits) = path.parent, divide(path, read(path))
    else:
        tests = _test_files(path)
        if not tests:
            raise UserError(f"{path}: has train.csv but no val.csv or test.csv to score on; put one beside it")
        root, how = path, f"train.csv, {tests[0]}.csv"
        splits = {split: read(path / f"{split}.csv") for split in ("train", tests[0])}
    rows = [row for part in splits.values() for row in part]
    check_files(path, root, rows)
    labelled = {split: ([r.path for r in part], [r.label for r in part]) for split, part in splits.items()}
    return from_files(name, f"{NAME} ({how})", path, root, labelled, progress)


def _test_files(path: Path) -> list[str]:
    return [split for split in TESTS if (path / f"{split}.csv").is_file()]


def read(file: Path, labelled: bool = True) -> list[CsvRow]:
    """The lines of a table. Where labels are not needed, those of a table without such a column are empty.

    Raises UserError for a table that is not one, lacks a column or names no images.
    """
    rows = []
    needed = ["path", "label"] if labelled else ["path"]
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True, strict=True)
            header = [column.strip().lower() for column in next(reader, [])]
            _check_columns(file, header, needed)
            path, label = header.index("path"), header.index("label") if "label" in header else None
            split = header.index("split") if "split" in header else None
            splitlike = {c: i for i, c in enumerate(header) if split is None and c not in ("path", "label")}
            for fields in reader:
                if not fields:
                    continue
                where = f"{file}, line {reader.line_num}"
                if len(fields) != len(header):
                    raise UserError(
                        f"{where}: {len(fields)} fields for {len(header)} columns; quote values with commas"
                    )
                row = CsvRow(
                    posixpath.normpath(fields[path].strip().replace("\\", "/")),
                    "" if label is None else fields[label].strip(),
                    "" if split is None else fields[split].strip().lower(),
                    file.name,
                    reader.line_num,
                )
                if row.path == "." or (labelled and not row.label):
                    raise UserError(f"{where}: empty {' or '.join(needed)}; fill it in or delete the line")
                if split is not None and row.split not in ("train", *TESTS):
                    raise UserError(f"{where}: split {row.split!r} is none of train, {', '.join(TESTS)}")
                rows.append(row)
                splitlike = {c: i for c, i in splitlike.items() if fields[i].strip().lower() in ("train", *TESTS)}
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: not a comma-separated table ({error})") from error
    if not rows:
        raise UserError(f"{file}: names no images; add lines of {','.join(needed)}")
    if splitlike:
        raise UserError(f"{file}: column {next(iter(splitlike))!r} says train or test on every line; call it split")
    return rows


def _check_columns(file: Path, header: list[str], needed: list[str]) -> None:
    """Refuse a header that lacks a column, has one twice, or misspells one, without which others decide."""
    if not set(needed) <= set(header):
        columns = f"column{'s' * (len(needed) > 1)} {','.join(needed)}"
        raise UserError(f"{file}: the first line must name the {columns}; it is {','.join(header)!r}")
    for known in ("path", "label", "split"):
        if header.count(known) > 1:
            raise UserError(f"{file}: the column {known} is there twice; keep one")
        for column in header:
            if known not in header and (hint := nearest(column, [known], TYPO)):
                raise UserError(f"{file}: unknown column {column!r} ({hint}); rename it, or to something else")


def divide(file: Path, rows: list[CsvRow]) -> tuple[str, dict[str, list[CsvRow]]]:
    """(how it was decided, {train's and test's name: rows}). Raises UserError where there is no test."""
    if rows[0].split:
        return _by(file, rows, lambda row: row.split, "split column")
    places = split_folders(rows)
    named = [place for place in places if place]
    if not named:
        return _every_fifth(file, rows)
    if len(named) < len(rows):
        odd = next(row for row, place in zip(rows, places, strict=True) if not place)
        raise UserError(
            f"{file}: {odd.path} ({odd.where}) lies under no train, val or test folder as other paths do; "
            "add a column split"
        )
    by_path = {row.path: place for row, place in zip(rows, places, strict=True)}
    return _by(file, rows, lambda row: by_path[row.path], "folders")


def split_folders(rows: list[CsvRow]) -> list[str]:
    """For each path the first folder in it that is called as a split, or an empty text.

    Absolute paths are read from where they part: what they share may well lie under somebody's /test.
    """
    folders = [posixpath.dirname(row.path) for row in rows]
    if all(posixpath.isabs(folder) for folder in folders):
        shared = len(posixpath.commonpath(folders))
        folders = [folder[shared:] for folder in folders]
    return [next((part for part in folder.split("/") if part in ("train", *TESTS)), "") for folder in folders]


def _by(
    file: Path, rows: list[CsvRow], split_of: Callable[[CsvRow], str], how: str
) -> tuple[str, dict[str, list[CsvRow]]]:
    splits: dict[str, list[CsvRow]] = {}
    for row in rows:
        splits.setdefault(split_of(row), []).append(row)
    test = next((split for split in TESTS if split in splits), None)
    if test is None or "train" not in splits:
        present = ", ".join(sorted(splits))
        raise UserError(
            f"{file}: its {how} name only {present}; both train and one of val, validation or test are needed"
        )
    ignored = "".join(f", {other} ignored" for other in TESTS if other in splits and other != test)
    return f"{how}: train, {test}{ignored}", {split: splits[split] for split in ("train", test)}


def _every_fifth(file: Path, rows: list[CsvRow]) -> tuple[str, dict[str, list[CsvRow]]]:
    seen: Counter[str] = Counter()
    splits: dict[str, list[CsvRow]] = {"train": [], "test": []}
    for row in rows:
        seen[row.label] += 1
        splits["test" if seen[row.label] % FIFTH == 0 else "train"].append(row)
    if not splits["test"]:
        raise UserError(
            f"{file}: no class has {FIFTH} images, so none is left to score on (every fifth of a class would be); "
            "add a column split"
        )
    return "every fifth image of each class, in file order, is test", splits


def check_files(path: Path, root: Path, rows: Iterable[CsvRow]) -> None:
    """Refuse lines that name the same image, in both splits above all, and images that are not there."""
    first: dict[str, CsvRow] = {}
    missing = []
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is not row:
            raise UserError(
                f"{path}: {row.path} is listed twice ({other.where} and {row.where}); "
                "an image belongs to train or to test, once"
            )
        if not os.path.isfile(root / row.path):
            missing.append(row)
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(first)} files are missing, such as {missing[0].path} "
            f"({missing[0].where}); paths are relative to {root}"
        )
    require_text(path, list(first))
