"""COCO instances (Lin et al. 2014, arXiv 1405.0312) through pycocotools; crowd regions are left out."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, decode
from dinobench.data.masks import Masks
from dinobench.errors import BrokenImage, UserError

NAME = "coco"
SUMMARY = (
    "annotations/instances_val2017.json and val2017/*.jpg or images/val2017/*.jpg. "
    "Polygons and run-length masks alike; crowd regions are left out, and so are images without any other mask."
)
ANNOTATIONS = "annotations/instances_val2017.json"
FOLDERS = ("val2017", "images/val2017", "images")


@dataclass(frozen=True, eq=False)
class Coco:
    """Images of val2017 that have instances; `index` is pycocotools' COCO."""

    name: str
    layout: str
    folder: Path
    index: Any
    images: tuple[str, ...]
    numbers: dict[str, int]
    fingerprint: str

    def ids(self, kind: str) -> Sequence[str]:
        """File names without their ending; classes are the union of a category's instances, so all have both."""
        return self.images

    def load(self, image_id: str) -> Image.Image:
        """The RGB image. Raises UserError when it cannot be read."""
        path = self.folder / self.index.imgs[self.numbers[image_id]]["file_name"]
        try:
            return decode(path)
        except BROKEN_IMAGE as error:
            raise BrokenImage(f"{path}: not a readable image ({error}); replace the file") from error

    def masks(self, image_id: str, kind: str) -> Masks:
        """Instance masks by annotation id, or their unions by category id; COCO has no void pixels."""
        annotations = _countable(self.index, self.numbers[image_id])
        instances = np.stack([self.index.annToMask(a) for a in annotations]).astype(bool)
        if kind == "instances":
            return Masks(instances, tuple(a["id"] for a in annotations))
        categories = np.array([a["category_id"] for a in annotations])
        numbers = sorted(set(categories.tolist()))
        return Masks(np.stack([instances[categories == c].any(axis=0) for c in numbers]), tuple(numbers))


def recognises(path: Path) -> bool:
    """A folder with val2017's instance annotations."""
    return (path / ANNOTATIONS).is_file()


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> Coco:
    """Read and index the annotations and hash them and the images. Raises UserError for what is missing or broken."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise UserError(f"{path}: reading COCO masks needs pycocotools: pip install pycocotools") from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports on stdout, which belongs to results
            index = COCO(str(path / ANNOTATIONS))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{path / ANNOTATIONS}: not a COCO annotation file ({error}); download it again") from error
    folder = next((path / f for f in FOLDERS if (path / f).is_dir()), None)
    if folder is None:
        raise UserError(f"{path}: no images; put them in {path / FOLDERS[0]}")
    numbers = {os.path.splitext(index.imgs[i]["file_name"])[0]: i for i in sorted(index.imgs) if _countable(index, i)}
    if not numbers:
        raise UserError(f"{path / ANNOTATIONS}: no instance masks in it besides crowd regions")
    files = [index.imgs[i]["file_name"] for i in numbers.values()]
    for file in files:
        if not os.path.exists(folder / file):
            raise UserError(f"{folder / file}: missing, though the annotations name it; add it")
    places = [ANNOTATIONS, *((folder / file).relative_to(path).as_posix() for file in files)]
    digests = fingerprint.hash_files(path, places, path, progress)
    return Coco(name, NAME, folder, index, tuple(numbers), numbers, fingerprint.of_files(places, digests))


def _countable(index: Any, image: int) -> list[dict[str, Any]]:
    return [a for a in index.imgToAnns[image] if not a.get("iscrowd", 0) and a.get("segmentation")]
