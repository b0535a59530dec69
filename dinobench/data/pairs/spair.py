"""SPair-71k (Min et al. 2019, arXiv 1908.10543): pairs of photos of one class with keypoints; the test split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, decode
from dinobench.data.pairs.annotations import numbers, read_json
from dinobench.data.pairs.keypoints import PointPair
from dinobench.errors import BrokenImage, UserError

NAME = "spair"
SUMMARY = (
    "PairAnnotation/test/*.json and JPEGImages/<class>/* (SPair-71k). "
    "Each file is a pair: src_imname and trg_imname, their src_imsize and trg_imsize, src_kps and trg_kps as [[x, y], "
    "...], kps_ids, trg_bndbox as [x1, y1, x2, y2], category, and, where it is known, viewpoint_variation."
)
FOLDER = "PairAnnotation/test"
#: Bytes of the largest annotation, of which SPair-71k's have three thousand, and the largest number in one.
LARGEST, LIMIT = 10**6, 1e6


@dataclass(frozen=True, eq=False)
class SPair:
    """The pairs of a folder, by category and then name; images are called `<class>/<file>`."""

    name: str
    layout: str
    root: Path
    pairs: tuple[PointPair, ...]
    fingerprint: str

    def load(self, image_id: str) -> Image.Image:
        """The RGB image. Raises BrokenImage when it cannot be read."""
        path = self.root / "JPEGImages" / image_id
        try:
            return decode(path)
        except BROKEN_IMAGE as error:
            raise BrokenImage(f"{path}: not a readable image ({error}); replace the file") from error


def recognises(path: Path) -> bool:
    """A folder with pairs to test on."""
    return (path / FOLDER).is_dir()


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> SPair:
    """Read and check the annotations, and hash them and the images. Raises UserError for what is wrong or missing."""
    files = sorted(f.name for f in (path / FOLDER).iterdir() if f.suffix == ".json" and not f.name.startswith("."))
    if not files:
        raise UserError(f"{path / FOLDER}: no pairs; put a JSON file for each there")
    read = progress(files, "Reading pairs", len(files)) if progress else files
    pairs = sorted((_pair(path / FOLDER / file) for file in read), key=lambda pair: (pair.category, pair.id))
    images = sorted({image for pair in pairs for image in (pair.source, pair.target)})
    for image in images:
        if not os.path.exists(path / "JPEGImages" / image):
            raise UserError(
                f"{path / 'JPEGImages' / image}: missing, though a pair in {path / FOLDER} names it; add it"
            )
    hashed = [*(f"JPEGImages/{image}" for image in images), *(f"{FOLDER}/{file}" for file in files)]
    digests = fingerprint.hash_files(path, hashed, path, progress)
    return SPair(name, NAME, path, tuple(pairs), fingerprint.of_files(hashed, digests))


def _pair(file: Path) -> PointPair:
    """The pair that a file describes. Raises UserError naming the file and the field at fault."""
    entry = read_json(file, LARGEST)
    if not isinstance(entry, dict):
        raise UserError(f"{file}: not a pair of SPair-71k, which is an object with src_kps, trg_kps and others")
    category, source, target = (_name(entry, key, file) for key in ("category", "src_imname", "trg_imname"))
    sizes = [_size(entry, key, file) for key in ("src_imsize", "trg_imsize")]
    points = [_points(entry, key, file) for key in ("src_kps", "trg_kps")]
    if len(points[0]) != len(points[1]) or not len(points[0]):
        raise UserError(
            f"{file}: {len(points[0])} points in src_kps, {len(points[1])} in trg_kps; give the same, at least one"
        )
    if ((points[0] < 0) | (points[0] >= sizes[0])).any():
        raise UserError(f"{file}: a point of src_kps lies outside src_imsize {sizes[0][0]} x {sizes[0][1]}; correct it")
    names = entry.get("kps_ids", list(range(len(points[0]))))
    if not isinstance(names, list) or len(names) != len(points[0]):
        raise UserError(f"{file}: kps_ids is no list of as many names as there are points; correct it")
    box = numbers(entry.get("trg_bndbox"), 4, LIMIT)
    if box is None or box[2] <= box[0] or box[3] <= box[1]:
        raise UserError(f"{file}: trg_bndbox is not x1, y1, x2, y2 of a box, by which thresholds go; correct it")
    view = entry.get("viewpoint_variation")
    if view is not None and (isinstance(view, bool) or view not in (0, 1, 2)):
        raise UserError(f"{file}: viewpoint_variation {view!r} is none of 0, 1 and 2; correct it")
    folder = f"{category}/"
    return PointPair(
        file.stem, category, folder + source, folder + target, sizes[0], sizes[1], points[0], points[1], box,
        tuple(map(str, names)), view,
    )  # fmt: skip


def _name(entry: dict[str, Any], key: str, file: Path) -> str:
    """A name of a file or folder that stays where it is put."""
    name = entry.get(key)
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", "..") or {"/", "\\"} & set(name):
        raise UserError(f"{file}: {key} is no name of a file or a class; correct it")
    return name


def _size(entry: dict[str, Any], key: str, file: Path) -> tuple[int, int]:
    """(width, height), of which a third number, the channels, may follow."""
    size = entry.get(key)
    sides = numbers(size[:2], 2, LIMIT) if isinstance(size, list) else None
    if sides is None or (sides < 1).any() or (sides != sides.round()).any():
        raise UserError(f"{file}: {key} is not width, height and channels of an image; correct it")
    return int(sides[0]), int(sides[1])


def _points(entry: dict[str, Any], key: str, file: Path) -> np.ndarray:
    """(K, 2) float64."""
    points = entry.get(key)
    rows = [numbers(point, 2, LIMIT) for point in points] if isinstance(points, list) else [None]
    if any(row is None for row in rows):
        raise UserError(f"{file}: {key} is not a list of points, each x and y in pixels; correct it")
    return np.array(rows, np.float64).reshape(-1, 2)
