"""What sets of test images from elsewhere share: how their folders become a split with another set's classes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.imagefolder import is_hidden, note_left_out, scan_split
from dinobench.errors import UserError
from dinobench.types import ImageClassification, ImageSplit


@dataclass(frozen=True)
class OtherTest:
    """Test images from elsewhere, their labels counted among the classes of the set that is learnt from.

    `digests` (n, 32) uint8 of the files, None where the images are the set's own test images. The rest is as
    `ImageClassification` has it.
    """

    layout: str
    split: ImageSplit
    digests: np.ndarray | None
    notes: tuple[str, ...] = ()
    among: np.ndarray | None = None
    answers: np.ndarray | None = None
    report: str | None = None


@cache
def timm_list(file: str) -> tuple[str, ...]:
    """The lines of one of timm's lists, of wnids or class numbers of ImageNet (`timm/data/_info`)."""
    return tuple((timm_info() / file).read_text(encoding="utf-8").split())


def timm_info() -> Path:
    """The folder of timm's lists. Found without importing timm, which takes seconds."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise UserError("timm is not installed; pip install timm")
    return Path(found.submodule_search_locations[0], "data", "_info")


def class_numbers(data: ImageClassification) -> dict[int, int]:
    """ImageNet's class numbers, 0 to 999 in the order of wnids, -> indices of `data`'s classes that are wnids.

    Where none is, the classes in their order are 0, 1, ….
    """
    index = {name: i for i, name in enumerate(data.classes)}
    found = {number: index[wnid] for number, wnid in enumerate(timm_list("imagenet_synsets.txt")) if wnid in index}
    return found or dict(enumerate(range(len(data.classes))))


def class_folders(path: Path, below: str = ".") -> tuple[Path, list[str], list[str], list[str]]:
    """The folder that holds class folders, `path` itself or the only folder in it; then ids, classes, left-out files.

    Raises UserError where there are none.
    """
    if not path.is_dir():
        raise UserError(f"{path}: a folder of class folders is needed")
    folders = [entry for entry in visible(path) if entry.is_dir()] if below == "." else []
    if len(folders) == 1 and any(entry.is_dir() for entry in visible(folders[0])):
        path = folders[0]
    left_out: list[str] = []
    ids, names = scan_split(path, below, left_out, complete=False)
    return path, [i.removeprefix("./") for i in ids], names, [f.removeprefix("./") for f in left_out]


def visible(folder: Path) -> list[Path]:
    return sorted(Path(entry) for entry in os.scandir(folder) if not is_hidden(entry.name))


def file_test(
    layout: str,
    name: str,
    path: Path,
    root: Path,
    ids: Sequence[str],
    right: Sequence[Sequence[int]],
    *,
    progress: fingerprint.Progress | None = None,
    left_out: Sequence[str] = (),
    why: str = "train has no class for them",
    notes: Sequence[str] = (),
    among: np.ndarray | None = None,
    report: str | None = None,
    split_type: type[FileSplit] = FileSplit,
) -> OtherTest:
    """The test of files `ids` below `root`: `right` are the indices of the classes that are right for each.

    Those with none are left out and counted, for the reason `why`. Where one has several all are kept as answers.
    `path` is what the user gave. Raises UserError where no image remains.
    """
    kept = [i for i, classes in enumerate(right) if classes]
    if not kept:
        raise UserError(f"{path}: none of its {len(ids):,} images counts: {why}")
    said = [f"{name}: {len(ids) - len(kept):,} of {len(ids):,} images left out: {why}"] if len(kept) < len(ids) else []
    said += [note] if (note := note_left_out(left_out)) else []
    ids, right = [ids[i] for i in kept], [sorted(set(right[i])) for i in kept]
    digests = fingerprint.hash_files(root, ids, path, progress)
    labels = np.array([classes[0] for classes in right], np.int64)
    split = split_type(name, str(root.absolute()), tuple(ids), labels, fingerprint.of_files(ids, digests))
    answers = padded(right) if max(map(len, right)) > 1 else None
    return OtherTest(layout, split, digests, (*notes, *said), among, answers, report)


def padded(right: Sequence[Sequence[int]]) -> np.ndarray:
    """(n, a) int64: classes of each row ascending, then -1.

    >>> padded([[3], [1, 2]]).tolist()
    [[3, -1], [1, 2]]
    """
    answers = np.full((len(right), max(map(len, right))), -1, np.int64)
    for row, classes in zip(answers, right, strict=True):
        row[: len(classes)] = classes
    return answers


def by_name(data: ImageClassification, names: Sequence[str]) -> list[list[int]]:
    """The class of each image by the name of its folder; nothing where `data` has no such class."""
    index: Mapping[str, int] = {name: i for i, name in enumerate(data.classes)}
    return [[index[name]] if name in index else [] for name in names]
