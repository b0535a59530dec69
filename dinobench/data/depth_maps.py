"""Images with a depth for every pixel that a sensor saw: what the depth protocol trains and scores on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, decode, open_image
from dinobench.errors import BrokenImage, UserError
from dinobench.hashing import digest

#: What a 16-bit PNG opens as, in this and older Pillows.
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")


@dataclass(frozen=True)
class Convention:
    """How a data set is used by everybody who publishes on it; a protocol's settings may decide otherwise.

    Depth counts strictly between `low` and `high` metres, inside `crop` (see `dinobench.metrics.depth`). Training
    images lose their `border`, then give random crops of `train_crop` (height, width), and brightness varies by
    `brightness` either way. `scale` is what a metre is in the 16-bit files.
    """

    high: float
    crop: str = "none"
    border: Literal["none", "nyu"] = "none"
    train_crop: tuple[int, int] = (0, 0)
    brightness: float = 0.1
    scale: int = 1000
    low: float = 1e-3


class DepthSplit(Protocol):
    """Images and their depth; `ids` are stable names, `clusters` what each depends on the others with, or None."""

    @property
    def name(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def clusters(self) -> Sequence[str] | None: ...
    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """The RGB image. Raises one of `BROKEN_IMAGE` or BrokenImage."""
        ...

    def depth(self, index: int) -> np.ndarray:
        """(H, W) float32 metres, 0 where unknown, of the image's size. Raises BrokenImage."""
        ...


@dataclass(frozen=True)
class DepthSet:
    """A split to train on and one to score on. `notes` say what of the files is not used."""

    name: str
    layout: str
    train: DepthSplit
    test: DepthSplit
    convention: Convention
    fingerprint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileDepths:
    """Images and depth in files below `root`. With `frame` (height, width) both are cut to its lowest rows, centred."""

    name: str
    root: str
    ids: tuple[str, ...]
    depths: tuple[str, ...]
    scale: int
    fingerprint: str
    frame: tuple[int, int] | None = None
    clusters: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        """The RGB image. Raises one of `BROKEN_IMAGE`; UserError where it is smaller than the frame."""
        image = decode(os.path.join(self.root, self.ids[index]))
        top, left, bottom, right = self._window(self.ids[index], image.height, image.width)
        return image if self.frame is None else image.crop((left, top, right, bottom))

    def depth(self, index: int) -> np.ndarray:
        """(H, W) float32 metres, 0 where unknown. Raises BrokenImage; UserError for what is no depth."""
        depth = read_depth(Path(self.root) / self.depths[index], self.scale)
        top, left, bottom, right = self._window(self.depths[index], *depth.shape)
        return depth[top:bottom, left:right]

    def _window(self, name: str, height: int, width: int) -> tuple[int, int, int, int]:
        if self.frame is None:
            return 0, 0, height, width
        rows, columns = self.frame
        if height < rows or width < columns:
            raise UserError(
                f"{os.path.join(self.root, name)}: {width} x {height} pixels, smaller than the {columns} x {rows} that "
                "are cut from it; give the files at their original size"
            )
        top, left = height - rows, (width - columns) // 2
        return top, left, top + rows, left + columns


@dataclass(frozen=True, eq=False)
class ArrayDepths:
    """Images (n, H, W, 3) uint8 with depth (n, H, W) in millimetres uint16, in memory."""

    name: str
    ids: tuple[str, ...]
    pixels: np.ndarray
    millimetres: np.ndarray
    clusters: tuple[str, ...] | None = None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        own = [fingerprint.of_array(self.ids, array) for array in (self.pixels, self.millimetres)]
        object.__setattr__(self, "fingerprint", digest(own))

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.pixels[index])

    def depth(self, index: int) -> np.ndarray:
        """(H, W) float32 metres."""
        return self.millimetres[index].astype(np.float32) / np.float32(1000)


def pair(split: DepthSplit, index: int) -> tuple[Image.Image, np.ndarray]:
    """An image and its depth (H, W). Raises UserError where their sizes differ, else what the two readers raise."""
    image, depth = split.load(index), split.depth(index)
    if depth.shape != (image.height, image.width):
        raise UserError(
            f"{split.name}: the depth of {split.ids[index]} is {depth.shape[1]} x {depth.shape[0]} pixels, its image "
            f"{image.width} x {image.height}; give both one size"
        )
    return image, depth


def read_depth(path: Path, scale: int) -> np.ndarray:
    """A 16-bit grey PNG as metres (H, W) float32, its values divided by `scale`; 0 stays 0, which is unknown.

    Raises BrokenImage where it cannot be read, UserError where it is of another kind.
    """
    try:
        with open_image(path, ("PNG",)) as image:
            if image.mode not in SIXTEEN_BITS:
                raise UserError(f"{path}: mode {image.mode}, not a 16-bit grey PNG; save depth with all its 16 bits")
            return np.asarray(image).astype(np.float32) / np.float32(scale)
    except BROKEN_IMAGE as error:
        raise BrokenImage(f"{path}: not a readable depth map ({error}); replace the file") from error


def depth_png(metres: np.ndarray, scale: int) -> bytes:
    """Depth (H, W) as `read_depth` reads it, rounded and kept within 16 bits."""
    file = BytesIO()
    Image.fromarray((metres.astype(np.float64) * scale).round().clip(0, 65535).astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


def png_name(image_id: str) -> str:
    """What an image's predicted depth is kept as.

    >>> png_name("office/rgb_00001.jpg"), png_name("shapes/48")
    ('office/rgb_00001.png', 'shapes/48.png')
    """
    return PurePosixPath(image_id).with_suffix(".png").as_posix()


def read_pairs(path: Path) -> tuple[list[tuple[str, str]], int]:
    """(image, depth) of the lines of a split file in the images' order, and how many have `None` for a depth.

    A line is `image depth focal`; a slash before a path is dropped. Raises UserError naming the line at fault.
    """
    pairs: dict[str, str] = {}
    without = 0
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it lists a pair of files per line") from error
    for number, line in enumerate(lines, 1):
        image, *others = line.split() or [""]
        if not image:
            continue
        if not others:
            raise UserError(
                f"{path}: line {number} names {image!r} alone; write image, depth and focal length on a line"
            )
        if others[0] == "None":
            without += 1
            continue
        image, depth = image.lstrip("/\\"), others[0].lstrip("/\\")
        if image in pairs:
            raise UserError(f"{path}: line {number} lists {image} a second time; list it once")
        pairs[image] = depth
    if not pairs:
        raise UserError(f"{path}: no pair of an image and its depth in it")
    return sorted(pairs.items()), without


def from_lists(
    path: Path,
    name: str,
    layout: str,
    lists: tuple[str, str],
    folders: tuple[str, str],
    convention: Convention,
    progress: fingerprint.Progress | None,
    frame: tuple[int, int] | None = None,
    cluster_level: int | None = None,
) -> DepthSet:
    """The set of two split files (train, test) whose images and depths lie below `folders` of `path`.

    `cluster_level` is the folder of an image's path, from 0, whose images belong together. Raises UserError for a list
    at fault and for a file that it names and that is not there.
    """
    read = [read_pairs(path / file) for file in lists]
    files = [[(Path(folders[0], i).as_posix(), Path(folders[1], d).as_posix()) for i, d in pairs] for pairs, _ in read]
    flat = [file for split in files for both in split for file in both]
    for file in flat:
        if not os.path.exists(path / file):
            raise UserError(
                f"{path / file}: missing, though a list names it ({' or '.join(lists)}); add it or take it off"
            )
    digests = fingerprint.hash_files(path, flat, path, progress)
    notes = [
        f"{without:,} lines of {file} have no depth (None) and are left out"
        for file, (_, without) in zip(lists, read, strict=True)
        if without
    ]
    splits, first = [], 0
    for split_name, split in zip(("train", "test"), files, strict=True):
        span = slice(first, first + 2 * len(split))
        first = span.stop
        images, depths = (tuple(part) for part in zip(*split, strict=True))
        clusters = None if cluster_level is None else tuple(_folder(image, cluster_level) for image in images)
        splits.append(
            FileDepths(
                split_name, str(path.absolute()), images, depths, convention.scale,
                fingerprint.of_files(flat[span], digests[span]), frame, clusters,
            )
        )  # fmt: skip
    train, test = splits
    return DepthSet(
        name, layout, train, test, convention, digest(train.fingerprint, test.fingerprint, convention), tuple(notes)
    )


def _folder(path: str, level: int) -> str:
    *folders, _ = path.split("/")
    return folders[level] if level < len(folders) else "/".join(folders)
