"""Retrieval sets: Revisited Oxford and Paris from their published pickles, or any folder of labelled images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.copydays import list_images
from dinobench.data.layouts.imagefolder import EXTENSIONS
from dinobench.data.plain_pickle import DamagedPickle, ForeignName, read_plain
from dinobench.errors import UserError
from dinobench.types import ImageSplit

NAME = "landmarks"
SUMMARY = (
    "roxford5k/{gnd_roxford5k.pkl,jpg/*.jpg}, rparis6k/ alike, or a folder that holds several such "
    "(Revisited Oxford and Paris, arXiv 1803.11285). "
    "Else an ImageFolder with <class>/*.jpg, alone or under val/, validation/, test/ or train/, as a retrieval set in "
    "which every image searches for the others of its class."
)
SPLITS = ("val", "validation", "test", "train")  # the first there is
LABELS = ("easy", "hard", "junk")
NO_BOX = -(2.0**63)  # x86's NaN as an integer, so that fingerprints from before it was written out stay
MAX_SIDE = 10**6  # pixels; a box beyond belongs to no image


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Queries against a database.

    `key` is what the ground truth calls itself (roxford5k). `truth[q]` maps easy, hard and junk to database indices
    (n,) int64; `boxes` (Q, 4) are the queries' objects as left, top, right, bottom in pixels, NaN where none is given.
    """

    name: str
    key: str
    layout: str
    database: ImageSplit
    queries: ImageSplit
    boxes: np.ndarray
    truth: tuple[Mapping[str, np.ndarray], ...]
    fingerprint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images that are each other's queries; `images.labels` index `classes`."""

    name: str
    layout: str
    images: ImageSplit
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LandmarkSets:
    """Several ground truths in one folder, of which one is to be chosen by name."""

    name: str
    layout: str
    sets: Mapping[str, Landmarks]
    fingerprint: str


def recognises(path: Path) -> bool:
    """A ground-truth pickle in the folder or one below, or class folders with images."""
    return path.is_dir() and (bool(_truth_files(path)) or _labelled_root(path) is not None)


def load(
    path: Path, name: str, progress: fingerprint.Progress | None = None
) -> Landmarks | LabelledImages | LandmarkSets:
    """Read the ground truth and hash the images; they are decoded later. Raises UserError for what does not fit."""
    if files := _truth_files(path):
        sets = {file.stem.removeprefix("gnd_"): file for file in files}
        if len(sets) == 1:
            [(key, file)] = sets.items()
            return _load_landmarks(file, name if file.parent == path else key, progress)
        loaded = {key: _load_landmarks(file, key, progress) for key, file in sorted(sets.items())}
        labels = [(data.fingerprint, np.empty(0)) for data in loaded.values()]
        return LandmarkSets(name, NAME, loaded, fingerprint.of_dataset(list(loaded), labels))
    root = _labelled_root(path)
    if root is None:
        raise UserError(f"{path}: neither gnd_<name>.pkl nor class folders with images")
    return _load_labelled(path, root, name, progress)


def read_truth(file: Path) -> dict[str, Any]:
    """The published pickle, built from containers, numbers, texts and NumPy arrays only, with its parts checked.

    `imlist` and `qimlist` are lists of names and `gnd` is a list of dicts with `LABELS`, as long as qimlist. Raises
    UserError when it asks for anything else, which could be code, or is damaged.
    """
    try:
        content = read_plain(file)
    except ForeignName as error:
        raise UserError(
            f"{file}: the pickle asks for {error}, which is not data; refused. Download the ground truth from the "
            "benchmark's own page"
        ) from error
    except DamagedPickle as error:
        raise UserError(f"{file}: not a readable pickle ({error}); download the ground truth again") from error
    if not isinstance(content, dict) or not {"imlist", "qimlist", "gnd"} <= set(content):
        raise UserError(f"{file}: not a ground truth of Revisited Oxford or Paris, which has imlist, qimlist and gnd")
    images, queries = (_names(content[part], part, file) for part in ("imlist", "qimlist"))
    entries = content["gnd"]
    if not isinstance(entries, list) or len(entries) != len(queries):
        count = len(entries) if isinstance(entries, list) else "no list of"
        raise UserError(f"{file}: {len(queries)} queries but {count} entries in gnd")
    for query, entry in zip(queries, entries, strict=True):
        if not isinstance(entry, dict) or not set(LABELS) <= set(entry):
            raise UserError(f"{file}: query {query} lacks easy, hard or junk (the original Oxford ground truth does)")
    return content | {"imlist": images, "qimlist": queries}


def _names(values: Any, part: str, file: Path) -> list[str]:
    """Images' names, as texts or as an array of them."""
    names = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else values
    names = [n.decode("latin-1") if isinstance(n, bytes) else n for n in names] if isinstance(names, list) else [None]
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise UserError(f"{file}: {part} is no list of images' names; download the ground truth again")
    return names


def _truth_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    own = sorted(path.glob("gnd_*.pkl"))
    return own or sorted(path.glob("*/gnd_*.pkl"))


def _load_landmarks(file: Path, name: str, progress: fingerprint.Progress | None) -> Landmarks:
    content = read_truth(file)
    root = file.parent
    find = _finder(root)
    database = [find(image, file) for image in content["imlist"]]
    queries = [find(image, file) for image in content["qimlist"]]
    truth = tuple({label: _indices(entry[label], len(database), file) for label in LABELS} for entry in content["gnd"])
    boxes = np.array([_box(entry.get("bbx"), file) for entry in content["gnd"]], dtype=float).reshape(-1, 4)
    digests = fingerprint.hash_files(root, [*database, *queries], root, progress)
    splits = []
    for split, names, part in (
        ("database", database, digests[: len(database)]),
        ("queries", queries, digests[len(database) :]),
    ):
        identity = fingerprint.of_files(names, part)
        splits.append(FileSplit(split, str(root.absolute()), tuple(names), np.full(len(names), -1), identity))
    return assemble(name, file.stem.removeprefix("gnd_"), NAME, splits[0], splits[1], boxes, truth)


def assemble(
    name: str,
    key: str,
    layout: str,
    database: ImageSplit,
    queries: ImageSplit,
    boxes: np.ndarray,
    truth: tuple[Mapping[str, np.ndarray], ...],
) -> Landmarks:
    """The data set with its fingerprint over images, boxes and ground truth."""
    # A number of our own stands for a box that is not given: what NaN becomes as an integer depends on the processor.
    given = np.where(np.isnan(boxes), NO_BOX, np.round(boxes * 1000))
    parts = [(database.fingerprint, np.empty(0)), (queries.fingerprint, given)]
    parts += [("", np.sort(entry[label])) for entry in truth for label in LABELS]
    keys = [f"{len(truth)} queries"]
    return Landmarks(name, key, layout, database, queries, boxes, truth, fingerprint.of_dataset(keys, parts))


def _finder(root: Path) -> Callable[[str, Path], str]:
    """From an image's name in the ground truth, which has no ending, to its file below `root`."""
    folder = "jpg" if (root / "jpg").is_dir() else ""
    if not folder:
        raise UserError(f"{root}: has a ground truth but no jpg/ with the images")
    files: dict[str, list[str]] = {}
    for file in list_images(root, folder):
        files.setdefault(os.path.splitext(file)[0], []).append(file)

    def find(image: str, truth: Path) -> str:
        found = files.get(f"{folder}/{image}", [])
        if not found:
            raise UserError(f"{truth}: names {image}, but there is no {root / folder / image}.jpg; add the image")
        if len(found) > 1:
            raise UserError(f"{truth}: names {image}, which may be {' or '.join(found)} in {root}; keep one of them")
        return found[0]

    return find


def _indices(values: Any, n: int, file: Path) -> np.ndarray:
    """Database indices (m,) int64, checked; lists, and arrays of any type of number as long as they are whole."""
    index = _numbers(values)
    if index is None or not (np.round(index) == index).all():
        raise UserError(f"{file}: its ground truth holds something else than numbers of images; download it again")
    if len(outside := index[(index < 0) | (index >= n)]):
        raise UserError(
            f"{file}: ground truth points at image {outside[0]:.0f} of {n}; the file is not this data set's"
        )
    return index.astype(np.int64)


def _numbers(values: Any) -> np.ndarray | None:
    """A flat list or an array of finite numbers as (m,), or None for anything else."""
    if isinstance(values, list | tuple):
        if not all(isinstance(v, int | float) and abs(v) < 2**53 for v in values):
            return None
        values = np.array(values, float)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return None
    return values.ravel()


def _box(values: Any, file: Path) -> list[float]:
    if values is None:
        return [np.nan] * 4
    box = _numbers(values)
    if box is not None and not len(box):
        return [np.nan] * 4
    if box is None or len(box) != 4 or np.abs(box).max() > MAX_SIDE or box[2] <= box[0] or box[3] <= box[1]:
        shown = "of something else than numbers" if box is None else [float(v) for v in box[:6]]
        raise UserError(f"{file}: query box {shown} is not left, top, right, bottom")
    return [float(v) for v in box]


def _labelled_root(path: Path) -> Path | None:
    """The folder whose subfolders are classes: a split to score on where there are splits, else the folder itself."""
    splits = [path / split for split in SPLITS if (path / split).is_dir()]
    return next((root for root in splits or [path] if any(_any_image(c) for c in _folders(root))), None)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _any_image(folder: Path) -> bool:
    """A quick look: stops at the first."""
    return any(f.lower().endswith(EXTENSIONS) for _, _, files in os.walk(folder) for f in files)


def _load_labelled(path: Path, root: Path, name: str, progress: fingerprint.Progress | None) -> LabelledImages:
    listed = {folder.name: list_images(root, folder.name, deep=True) for folder in _folders(root)}
    files = {name: images for name, images in listed.items() if images}
    classes = list(files)
    names = [f for images in files.values() for f in images]
    labels = np.repeat(np.arange(len(classes)), [len(files[c]) for c in classes])
    if max(np.bincount(labels)) < 2:
        raise UserError(f"{root}: no class has two images, so none has another to find")
    digests = fingerprint.hash_files(root, names, path, progress)
    images = FileSplit("images", str(root.absolute()), tuple(names), labels, fingerprint.of_files(names, digests))
    layout = f"imagefolder ({root.name})" if root != path else "imagefolder"
    return assemble_labelled(name, layout, images, tuple(classes))


def assemble_labelled(name: str, layout: str, images: ImageSplit, classes: tuple[str, ...]) -> LabelledImages:
    """The data set with its fingerprint over images, labels and class names."""
    identity = fingerprint.of_dataset(classes, [(images.fingerprint, images.labels)])
    return LabelledImages(name, layout, images, classes, identity)
