"""The splits that the layouts hand out, and how an image file becomes pixels. Splits pickle and hold no open files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from PIL import Image

from dinobench.data import fingerprint, leaks
from dinobench.data.decoding import decode
from dinobench.data.fingerprint import Progress
from dinobench.errors import UserError
from dinobench.files import open_regular
from dinobench.types import ImageClassification, ImageSplit


@dataclass(eq=False)
class FileSplit:
    """Images in files: `ids` are their paths relative to `root`, `labels` (n,) int64."""

    name: str
    root: str
    ids: Sequence[str]
    labels: np.ndarray
    fingerprint: str
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image; raises one of `BROKEN_IMAGE` when it cannot be decoded."""
        return decode(os.path.join(self.root, self.ids[index]))

    def hashed(self, remember: Path, progress: Progress | None = None) -> np.ndarray:
        """(n, 32) uint8: the SHA-256 of each image's file, as `fingerprint.hash_files` has it."""
        return fingerprint.hash_files(Path(self.root), self.ids, remember, progress)


@dataclass(eq=False)
class PackedSplit(FileSplit):
    """Images inside larger files such as archives: `places` tells where, by id, as `fingerprint.Place` has it.

    Those that it does not name are files of their own.
    """

    places: Mapping[str, fingerprint.Place] = field(default_factory=dict)

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image; raises one of `BROKEN_IMAGE` when it cannot be decoded."""
        if self.ids[index] not in self.places:
            return super().load(index)
        file, offset, size = self.places[self.ids[index]]
        with open_regular(os.path.join(self.root, file)) as packed:
            packed.seek(offset)
            return decode(BytesIO(packed.read(size)))

    def hashed(self, remember: Path, progress: Progress | None = None) -> np.ndarray:
        """(n, 32) uint8: the SHA-256 of each image's bytes."""
        return fingerprint.hash_files(Path(self.root), self.ids, remember, progress, self.places)


@dataclass(eq=False)
class ArraySplit:
    """Images in memory: `images` n of (H, W, 3) uint8 RGB, one array where all have one size; `labels` (n,) int64."""

    name: str
    images: np.ndarray | Sequence[np.ndarray]
    ids: Sequence[str]
    labels: np.ndarray
    fingerprint: str
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.images[index])


S = TypeVar("S", bound=FileSplit)


def part(split: S, rows: np.ndarray, name: str, digests: np.ndarray | None = None) -> S:
    """Some images of a split, in the order of `rows`; with its fingerprint where their `digests` (m, 32) are given."""
    ids = tuple(split.ids[row] for row in rows.tolist())
    identity = "" if digests is None else fingerprint.of_files(ids, digests)
    return dataclasses.replace(split, name=name, ids=ids, labels=split.labels[rows], fingerprint=identity)


def array_split(name: str, images: np.ndarray, ids: Sequence[str], labels: np.ndarray) -> ArraySplit:
    """An ArraySplit with its fingerprint computed."""
    return ArraySplit(name, images, ids, np.asarray(labels, np.int64), fingerprint.of_array(ids, images))


def from_files(
    name: str,
    layout: str,
    path: Path,
    root: Path,
    labelled: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> ImageClassification:
    """The data set of two splits of files: `labelled` maps train's name, then test's, to (ids, class names per image).

    `path` is what the user gave and the hashes are remembered under, `root` the folder that the ids start from.
    The classes are those of train, sorted by name.
    """
    (train_name, (train_ids, train_classes)), (test_name, (test_ids, test_classes)) = labelled.items()
    classes = sorted(set(train_classes))
    check_classes(path, classes, set(test_classes), test_name)
    index = {c: i for i, c in enumerate(classes)}
    digests = fingerprint.hash_files(root, [*train_ids, *test_ids], path, progress)

    def split(split_name: str, ids: Sequence[str], names: Sequence[str], digests: np.ndarray) -> FileSplit:
        labels = np.fromiter((index[c] for c in names), np.int64, len(names))
        return FileSplit(split_name, str(root.absolute()), tuple(ids), labels, fingerprint.of_files(ids, digests))

    of_train, of_test = digests[: len(train_ids)], digests[len(train_ids) :]
    train = split(train_name, train_ids, train_classes, of_train)
    test = split(test_name, test_ids, test_classes, of_test)
    leak = leaks.note(test_ids, leaks.leaked(of_train, of_test))
    return assemble(name, layout, classes, train, test, leak, tuple(notes))


def from_arrays(
    name: str, layout: str, classes: Sequence[str], train: ArraySplit, test: ArraySplit
) -> ImageClassification:
    """The data set of two splits in memory."""
    leaked = leaks.leaked(leaks.digests(train.images), leaks.digests(test.images))
    return assemble(name, layout, classes, train, test, leaks.note(test.ids, leaked))


def assemble(
    name: str,
    layout: str,
    classes: Sequence[str],
    train: ImageSplit,
    test: ImageSplit,
    leak: str | None = None,
    notes: tuple[str, ...] = (),
) -> ImageClassification:
    """The data set with its fingerprint over contents, labels and classes."""
    splits = [(split.fingerprint, split.labels) for split in (train, test)]
    return ImageClassification(
        name, layout, tuple(classes), train, test, fingerprint.of_dataset(classes, splits), leak, notes
    )


def check_classes(where: object, train: Sequence[str], test: Iterable[str], test_name: str) -> None:
    """Refuse label shift and single-class data: both give a number, and neither number means anything.

    `train` and `test` are the names, once each, of the classes that each split has images of.
    """
    if shifted := sorted(set(test) - set(train)):
        raise UserError(
            f"{where}: {test_name} has {_some(shifted)} that train lacks, so no image of theirs can be right; "
            "name the classes alike in both or leave these out"
        )
    if len(train) == 1:
        raise UserError(f"{where}: train holds one class only ({train[0]}); classification needs at least two")


def _some(names: Sequence[str], limit: int = 5) -> str:
    """`class a`, or `7 classes a, b, c, d, e, …`."""
    listed = ", ".join(map(str, names[:limit])) + (", …" if len(names) > limit else "")
    return f"class {listed}" if len(names) == 1 else f"{len(names)} classes {listed}"
