"""The fine-grained and transfer sets that backbones are compared on, as their authors' archives unpack.

(Kornblith et al. 2019, arXiv 1805.08974, table 2, whose choice of sets and metrics DINOv2 follows, arXiv 2304.07193,
table 8.) Train and validation images are joined; `val` says which the latter are.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import from_files
from dinobench.errors import UserError
from dinobench.types import ImageClassification

NAME = "transfer"
SUMMARY = (
    "Food-101, SUN397, Stanford Cars, FGVC-Aircraft, DTD, Oxford-IIIT Pet, Caltech-101, Oxford Flowers or CUB-200. "
    "The folder that the set's archive unpacks to, or the folder above it, as torchvision downloads them. Of SUN397 "
    "and DTD the first split counts, of Aircraft the variants; of Caltech-101, which has no split, 30 images of each "
    "class are drawn for train and the background is left out."
)
#: Images of each class of Caltech-101 to learn from, and the seed of the draw (ours).
CALTECH_TRAIN, CALTECH_SEED = 30, 0
MEAN_PER_CLASS = "mean_per_class"

#: Split -> (id, class) of its images.
Splits = dict[str, list[tuple[str, str]]]


class Kind(NamedTuple):
    """One of the sets: its folder and a file or folder in it that tells, how it is read, what it is reported by."""

    name: str
    folder: str
    mark: str
    read: Callable[[Path], Splits]
    report: str | None = None


def recognises(path: Path) -> bool:
    """A folder with a set's own list of images in it, or one that holds such a folder."""
    return _find(path) is not None


def default_name(path: Path) -> str:
    """The set's name, since folders that hold it are called in many ways."""
    found = _find(path)
    return found[0].name if found else path.resolve().name


def load(path: Path, name: str, progress: Progress | None = None) -> ImageClassification:
    """Read the lists and hash the images. Raises UserError for damaged lists and for files that are missing."""
    found = _find(path)
    assert found is not None
    kind, root = found
    splits = kind.read(root)
    train, val, test = (splits.get(split, []) for split in ("train", "val", "test"))
    for ids, split in ((train, "train"), (test, "test")):
        if not ids:
            raise UserError(f"{root}: no images of {kind.name}'s {split} split; unpack the archive again")
    every = [i for i, _ in (*train, *val, *test)]
    missing = [i for i in every if not (root / i).is_file()]
    if missing:
        raise UserError(
            f"{root}: {len(missing):,} of {len(every):,} files are missing, such as {missing[0]}; unpack the archive "
            "again"
        )
    labelled = {
        split: ([i for i, _ in some], [c for _, c in some])
        for split, some in (("train+val" if val else "train", [*train, *val]), ("test", test))
    }
    data = from_files(name, f"{NAME} ({kind.name})", path, root, labelled, progress)
    own = np.arange(len(train), len(train) + len(val)) if val else None
    return dataclasses.replace(data, val=own, report=kind.report)


def _find(path: Path) -> tuple[Kind, Path] | None:
    places = ((kind, root) for kind in KINDS for root in (path, path / kind.folder))
    return next(((kind, root) for kind, root in places if (root / kind.mark).exists()), None)


def _lines(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: no UTF-8 text ({error.reason}); unpack the archive again") from error
    return filter(None, map(str.strip, text.splitlines()))


def _pairs(file: Path) -> list[tuple[str, str]]:
    """The first word of every line, and the rest."""
    pairs = [tuple(line.split(maxsplit=1)) for line in _lines(file)]
    if odd := next((p for p in pairs if len(p) != 2), None):
        raise UserError(f"{file}: the line {odd[0]!r} has one word, not two; unpack the archive again")
    return [(p[0], p[1]) for p in pairs]


def _mat(file: Path, *names: str) -> list[Any]:
    from scipy.io import loadmat  # takes half a second, and most sets have no such file
    from scipy.io.matlab import MatReadError

    try:
        with file.open("rb") as opened:
            content = loadmat(opened, squeeze_me=True)
        return [content[name] for name in names]
    except (MatReadError, zlib.error, ValueError, TypeError, LookupError, OverflowError, NotImplementedError) as error:
        raise UserError(f"{file}: cannot be read as MATLAB's file with {', '.join(names)} ({error})") from error


def _food101(root: Path) -> Splits:
    def read(split: str) -> list[tuple[str, str]]:
        file = root / "meta" / f"{split}.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return [(f"images/{image}.jpg", str(c)) for c, images in content.items() for image in images]
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"{file}: no lists of images by class ({error}); unpack the archive again") from error

    return {split: read(split) for split in ("train", "test")}


def _dtd(root: Path) -> Splits:
    def read(split: str) -> list[tuple[str, str]]:
        return [(f"images/{line}", line.split("/")[0]) for line in _lines(root / "labels" / f"{split}1.txt")]

    return {split: read(split) for split in ("train", "val", "test")}


def _sun397(root: Path) -> Splits:
    """A class is the folder of an image, such as /a/apartment_building/outdoor."""

    def read(split: str) -> list[tuple[str, str]]:
        names = [line.strip("/") for line in _lines(root / "Partitions" / f"{split}_01.txt")]
        return [(name, name.rpartition("/")[0]) for name in names]

    return {"train": read("Training"), "test": read("Testing")}


def _aircraft(root: Path) -> Splits:
    def read(split: str) -> list[tuple[str, str]]:
        pairs = _pairs(root / "data" / f"images_variant_{split}.txt")
        return [(f"data/images/{image}.jpg", variant) for image, variant in pairs]

    return {split: read(split) for split in ("train", "val", "test")}


def _pets(root: Path) -> Splits:
    """A class is the name of its images less the number."""

    def read(split: str) -> list[tuple[str, str]]:
        names = [name for name, _ in _pairs(root / "annotations" / f"{split}.txt") if not name.startswith("#")]
        return [(f"images/{name}.jpg", name.rpartition("_")[0]) for name in names]

    return {"train": read("trainval"), "test": read("test")}


def _flowers(root: Path) -> Splits:
    (labels,) = _mat(root / "imagelabels.mat", "labels")
    parts = zip(("train", "val", "test"), _mat(root / "setid.mat", "trnid", "valid", "tstid"), strict=True)
    splits: Splits = {}
    for split, ids in parts:
        numbers = np.atleast_1d(ids)
        if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= np.size(labels):
            raise UserError(f"{root / 'setid.mat'}: names images that imagelabels.mat has no class for")
        splits[split] = [(f"jpg/image_{n:05d}.jpg", f"{np.atleast_1d(labels)[n - 1]:03d}") for n in numbers.tolist()]
    return splits


def _cub(root: Path) -> Splits:
    """images.txt, image_class_labels.txt and train_test_split.txt name what they say something of by number."""
    images, classes, trains = (
        dict(_pairs(root / file)) for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    if lost := next((n for n in images if n not in classes or n not in trains), None):
        raise UserError(f"{root}: image {lost} of images.txt has no class or no split; unpack the archive again")
    splits: Splits = {"train": [], "test": []}
    for number, name in images.items():
        splits["train" if trains[number] == "1" else "test"].append((f"images/{name}", name.split("/")[0]))
    return splits


def _cars(root: Path) -> Splits:
    """The annotations of each split: file and class number of every image, and the classes' names."""
    (names,) = _mat(root / "devkit" / "cars_meta.mat", "class_names")
    files = {"train": ("devkit/cars_train_annos.mat", "cars_train"),
             "test": ("cars_test_annos_withlabels.mat", "cars_test")}  # fmt: skip
    splits: Splits = {}
    for split, (file, folder) in files.items():
        (annotations,) = _mat(root / file, "annotations")
        try:
            rows = [(str(a["fname"]), int(a["class"])) for a in np.atleast_1d(annotations)]
            splits[split] = [(f"{folder}/{image}", str(names[c - 1])) for image, c in rows]
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(f"{root / file}: no file and class of each image ({error})") from error
    return splits


def _caltech101(root: Path) -> Splits:
    folder = root / "101_ObjectCategories"
    splits: Splits = {"train": [], "test": []}
    rng = np.random.default_rng(CALTECH_SEED)
    for entry in sorted(e for e in folder.iterdir() if e.is_dir() and e.name != "BACKGROUND_Google"):
        names = sorted(f.name for f in entry.iterdir() if re.fullmatch(r"image_\d+\.jpg", f.name))
        drawn = set(rng.permutation(len(names))[:CALTECH_TRAIN].tolist())
        for i, name in enumerate(names):
            image = f"101_ObjectCategories/{entry.name}/{name}", entry.name
            splits["train" if i in drawn else "test"].append(image)
    return splits


KINDS = (
    Kind("food101", "food-101", "meta/train.json", _food101),
    Kind("dtd", "dtd/dtd", "labels/train1.txt", _dtd),
    Kind("sun397", "SUN397", "Partitions/Training_01.txt", _sun397),
    Kind("aircraft", "fgvc-aircraft-2013b", "data/images_variant_train.txt", _aircraft, MEAN_PER_CLASS),
    Kind("pets", "oxford-iiit-pet", "annotations/trainval.txt", _pets, MEAN_PER_CLASS),
    Kind("flowers102", "flowers-102", "imagelabels.mat", _flowers, MEAN_PER_CLASS),
    Kind("cub200", "CUB_200_2011", "image_class_labels.txt", _cub),
    Kind("cars", "stanford_cars", "devkit/cars_train_annos.mat", _cars),
    Kind("caltech101", "caltech101", "101_ObjectCategories", _caltech101, MEAN_PER_CLASS),
)
