"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as their Python archives unpack and as torchvision downloads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinobench.data.image_split import ArraySplit, array_split, from_arrays
from dinobench.data.plain_pickle import DamagedPickle, ForeignName, read_plain
from dinobench.errors import UserError
from dinobench.types import ImageClassification

NAME = "cifar"
SUMMARY = (
    "cifar-10-batches-py/ or cifar-100-python/, or the folder that holds one of them. "
    "These are the folders that torchvision downloads: data_batch_1 to data_batch_5, test_batch and batches.meta for "
    "CIFAR-10, train, test and meta (fine labels) for CIFAR-100. The pickles are read without running code from them."
)


class Variant(NamedTuple):
    """The names in one of the two archives."""

    folder: str
    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    classes: str


VARIANTS = (
    Variant(
        "cifar-10-batches-py",
        "cifar10",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "labels",
        "label_names",
    ),
    Variant("cifar-100-python", "cifar100", ("train",), ("test",), "meta", "fine_labels", "fine_label_names"),
)


def recognises(path: Path) -> bool:
    """One of the two folders, known by name or by the files in it, or a folder that holds them."""
    return bool(_find(path))


def default_name(path: Path) -> str:
    """`cifar10` or `cifar100`, since folders that hold the archives are called `data`."""
    return _find(path)[0][1].name


def load(path: Path, name: str) -> ImageClassification:
    """Read every batch into memory (180 MB at most). Raises UserError for missing, damaged or foreign files."""
    location = _find(path)
    if len(location) > 1:
        raise UserError(f"{path}: holds both {' and '.join(v.folder for _, v in location)}; give one of them")
    folder, variant = location[0]
    missing = [file for file in (*variant.train, *variant.test, variant.meta) if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing; unpack the whole archive again")
    classes = _read(folder / variant.meta).get(variant.classes)
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(c, str) for c in classes):
        raise UserError(f"{folder / variant.meta}: no list of {variant.classes} in it; unpack the archive again")
    train, test = (
        _load_split(folder, split, files, variant.labels, len(classes))
        for split, files in (("train", variant.train), ("test", variant.test))
    )
    return from_arrays(name, f"{NAME} ({variant.folder})", classes, train, test)


def _find(path: Path) -> list[tuple[Path, Variant]]:
    for variant in VARIANTS:
        files = [(path / file).is_file() for file in (*variant.train, *variant.test, variant.meta)]
        # Two, because a lone file called `train` or `test` says little.
        if path.is_dir() and (sum(files) >= 2 or path.resolve().name == variant.folder):
            return [(path, variant)]
    return [(path / v.folder, v) for v in VARIANTS if (path / v.folder).is_dir()]


def _load_split(folder: Path, split: str, files: tuple[str, ...], key: str, classes: int) -> ArraySplit:
    """Ids are the position in the archive's own order, from `train/00000`."""
    batches = [_read_batch(folder / file, key, classes) for file in files]
    images = np.concatenate([images for images, _ in batches])
    ids = tuple(f"{split}/{i:05d}" for i in range(len(images)))
    return array_split(split, images, ids, np.concatenate([labels for _, labels in batches]))


def _read_batch(file: Path, key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(images (n, 32, 32, 3) uint8, labels (n,) int64); the file holds (n, 3072), one channel after the other."""
    content = _read(file)
    data, labels = content.get("data"), content.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{file}: no (n, 3072) uint8 array under 'data'; unpack the archive again")
    if (
        not isinstance(labels, list)
        or len(labels) != len(data)
        or not len(data)
        or not all(isinstance(label, int) and 0 <= label < classes for label in labels)
    ):
        raise UserError(f"{file}: {key!r} does not give each image one of {classes} classes; unpack the archive again")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.int64)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_plain(file)
    except ForeignName as error:
        raise UserError(
            f"{file}: asks to run {error}, which CIFAR's files never do; do not trust this file, download the archive "
            "again"
        ) from error
    except DamagedPickle as error:
        raise UserError(f"{file}: truncated or damaged ({error}); unpack the archive again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no dictionary as CIFAR's files do; unpack the archive again")
    return content
