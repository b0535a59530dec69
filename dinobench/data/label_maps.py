"""Images with a class for every pixel: what semantic segmentation learns from and is scored on, in whatever layout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from dinobench import lazy
from dinobench.errors import UserError

with lazy.imports():
    import numpy as np
    from PIL import Image

    from dinobench.data import fingerprint, leaks
    from dinobench.data.decoding import decode
    from dinobench.data.masks import label_numbers
    from dinobench.data.video import different_size, read_labels

#: In a label map: belongs to no class and counts for nothing.
IGNORED = 255
#: In a table of values: stands in no label map of this kind.
UNKNOWN = -1


class LabelMapSplit(Protocol):
    """A list of images with a label map each; `ids` are stable names."""

    @property
    def name(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def fingerprint(self) -> str:
        """Of images and label maps in their order."""
        ...

    @property
    def in_memory(self) -> bool: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image. Raises OSError or another of `BROKEN_IMAGE` when it cannot be decoded."""
        ...

    def labels(self, index: int) -> np.ndarray:
        """(H, W) uint8: classes from 0, 255 for what is ignored. Raises UserError for what cannot be a label map."""
        ...


@dataclass(frozen=True)
class LabelMapSet:
    """Label maps to learn from and to score on. `background` is the index of a class of that kind, if there is one."""

    name: str
    layout: str
    classes: tuple[str, ...]
    train: LabelMapSplit
    test: LabelMapSplit
    fingerprint: str  # of both splits and what their values stand for
    background: int | None = None
    notes: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One image of a folder: its stable name, and the paths of image and label map below the folder."""

    id: str
    image: str
    map: str


@dataclass(eq=False)
class FileLabelMaps:
    """Images and label maps in files below `root`; `table` (256,) int64 says what class a stored value stands for."""

    name: str
    root: str
    entries: Sequence[Entry]
    table: np.ndarray
    fingerprint: str
    in_memory: ClassVar[bool] = False

    @cached_property
    def ids(self) -> Sequence[str]:
        return tuple(entry.id for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image; raises one of `BROKEN_IMAGE` when it cannot be decoded."""
        return decode(os.path.join(self.root, self.entries[index].image))

    def labels(self, index: int) -> np.ndarray:
        """(H, W) uint8; raises UserError naming the file when it is damaged or its values are no labels."""
        return read_map(os.path.join(self.root, self.entries[index].map), self.table)


@dataclass(eq=False)
class ArrayLabelMaps:
    """Images and label maps in memory: `pixels` (n, H, W, 3) uint8 RGB, `maps` (n, H, W) uint8."""

    name: str
    ids: Sequence[str]
    pixels: np.ndarray
    maps: np.ndarray
    fingerprint: str
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.pixels[index])

    def labels(self, index: int) -> np.ndarray:
        """(H, W) uint8."""
        return self.maps[index]


def value_table(classes: Mapping[int, int], ignored: Iterable[int] = (IGNORED,)) -> np.ndarray:
    """(256,) int64: the class of each value, 255 for those ignored and `UNKNOWN` for all that may not occur.

    >>> value_table({1: 0}, (0, 255))[[0, 1, 2, 255]].tolist()
    [255, 0, -1, 255]
    """
    table = np.full(256, UNKNOWN, np.int64)
    table[list(ignored)] = IGNORED
    table[list(classes)] = list(classes.values())
    return table


def numbered(classes: int, reduce_zero_label: bool = False) -> np.ndarray:
    """The `value_table` of labels 0 … `classes` - 1 and 255, or of 1 … `classes` with 0 ignored too."""
    shift = int(reduce_zero_label)
    return value_table({c + shift: c for c in range(classes)}, (0, IGNORED) if shift else (IGNORED,))


def read_map(path: str | os.PathLike[str], table: np.ndarray, drawn: bool = True) -> np.ndarray:
    """A label map's classes (H, W) uint8, its values read through `table` (256,).

    Raises UserError naming the file when it is missing, damaged, in colour or holds other values; where it is `drawn`,
    and not predicted, also when its values are the shades of a smoothed map.
    """
    stored = read_labels(path)
    found = np.flatnonzero(np.bincount(stored.ravel(), minlength=256))
    if len(unknown := found[table[found] == UNKNOWN]):
        known = np.flatnonzero(table != UNKNOWN)
        shown = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise UserError(
            f"{path}: holds {shown}, but the labels here are {_ranges(known)}; give the label map of this data set"
        )
    alike = stored[:, 1:] == stored[:, :-1]
    if drawn and 2 * np.count_nonzero(alike) > alike.size:  # smoothing leaves areas, and edges between them
        label_numbers(stored, source=path)
    return table.astype(np.uint8)[stored]


def read_pair(split: LabelMapSplit, index: int) -> tuple[Image.Image, np.ndarray]:
    """An image and its labels (H, W) uint8. Raises UserError where they differ in size, else as reading them does."""
    image, labels = split.load(index), split.labels(index)
    if labels.shape != (image.height, image.width):
        what = f"{split.name}: the label map of {split.ids[index]}"
        raise UserError(different_size(what, labels.shape, (image.height, image.width), "its image"))
    return image, labels


def from_files(
    name: str,
    layout: str,
    path: Path,
    root: Path,
    classes: Sequence[str],
    table: np.ndarray,
    splits: Mapping[str, Sequence[Entry]],
    *,
    background: int | None = None,
    progress: fingerprint.Progress | None = None,
    notes: Sequence[str] = (),
    masks_only: bool = False,
) -> LabelMapSet:
    """The data set of files below `root`: `splits` maps train's name, then test's, to their entries.

    `path` is what the user gave and the hashes are remembered under. With `masks_only` images are not looked at. Raises
    UserError naming a missing file.
    """
    (train_name, train), (test_name, test) = splits.items()
    each = 1 if masks_only else 2
    files = [file for entry in (*train, *test) for file in (entry.map, entry.image)[:each]]
    for file in files:
        if not os.path.exists(root / file):
            raise UserError(f"{root / file}: missing, though its image or its list is there; add it, or take them off")
    digests = fingerprint.hash_files(root, files, path, progress)
    cut = each * len(train)
    made = [
        FileLabelMaps(split, str(root.absolute()), tuple(entries), table, fingerprint.of_files(of, hashed))
        for split, entries, of, hashed in (
            (train_name, train, files[:cut], digests[:cut]),
            (test_name, test, files[cut:], digests[cut:]),
        )
    ]
    leaked = leaks.leaked(digests[1:cut:2], digests[cut + 1 :: 2]) if not masks_only else np.zeros(0, np.int64)
    leak = leaks.note([entry.id for entry in test], leaked)
    return assemble(
        name, layout, classes, *made, table=table, background=background, notes=(*notes, *([leak] if leak else []))
    )


def assemble(
    name: str,
    layout: str,
    classes: Sequence[str],
    train: LabelMapSplit,
    test: LabelMapSplit,
    *,
    table: np.ndarray,
    background: int | None = None,
    notes: tuple[str, ...] = (),
) -> LabelMapSet:
    """The data set with its fingerprint, which the classes' names are no part of: their number and values are."""
    identity = fingerprint.of_dataset([str(len(classes))], [(split.fingerprint, table) for split in (train, test)])
    return LabelMapSet(name, layout, tuple(classes), train, test, identity, background, notes)


def _ranges(values: np.ndarray) -> str:
    """Ascending numbers in words.

    >>> _ranges(np.array([0, 1, 2, 255]))
    '0 to 2 and 255'
    """
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return " and ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
