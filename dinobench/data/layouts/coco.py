"""COCO instances (Lin et al. 2014, arXiv 1405.0312); crowd regions are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.coco_json import AnnotatedImage, read_annotations
from dinobench.data.decoding import BROKEN_IMAGE, decode, image_size
from dinobench.data.masks import Masks, require_room
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
    """Images of val2017 that have instances, by stable name; `notes` say what is left out, for records."""

    name: str
    layout: str
    folder: Path
    images: dict[str, AnnotatedImage]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def ids(self, kind: str) -> Sequence[str]:
        """File names without their ending, or with it where several would be the same without.

        Classes are the union of a category's instances, so all images have both.
        """
        return tuple(self.images)

    def load(self, image_id: str) -> Image.Image:
        """The RGB image. Raises UserError when it cannot be read or has another size than the annotations say."""
        entry = self.images[image_id]
        path = self.folder / entry.file_name
        try:
            width, height = image_size(path)
            stated = entry.size or (height, width)
            if stated != (height, width):  # before masks of any size are made
                raise UserError(
                    f"{path}: {width} x {height} pixels, but {ANNOTATIONS} says {stated[1]} x {stated[0]}; give image "
                    "and masks one size"
                )
            return decode(path)
        except BROKEN_IMAGE as error:
            raise BrokenImage(f"{path}: not a readable image ({error}); replace the file") from error

    def masks(self, image_id: str, kind: str) -> Masks:
        """Instance masks by annotation id, or their unions by category id; COCO has no void pixels."""
        entry = self.images[image_id]
        if entry.size is None:
            raise BrokenImage(f"{self.folder / entry.file_name}: not a readable image; replace the file")
        instances = entry.instances
        groups = sorted({i.category for i in instances}) if kind == "classes" else range(len(instances))
        require_room(f"{self.folder / entry.file_name}", len(groups), entry.size)
        masks = np.zeros((len(groups), *entry.size), bool)
        for place, instance in enumerate(instances):
            masks[groups.index(instance.category) if kind == "classes" else place] |= instance.shape.mask(*entry.size)
        return Masks(masks, tuple(groups) if kind == "classes" else tuple(i.id for i in instances))


def recognises(path: Path) -> bool:
    """A folder with val2017's instance annotations."""
    return (path / ANNOTATIONS).is_file()


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> Coco:
    """Read and check the annotations and hash them and the images. Raises UserError for what is missing or broken."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise UserError(f"{path}: reading COCO masks needs pycocotools: pip install pycocotools") from error
    folder = next((path / f for f in FOLDERS if (path / f).is_dir()), None)
    if folder is None:
        raise UserError(f"{path}: no images; put them in {path / FOLDERS[0]}")

    def size_of(file_name: str) -> tuple[int, int] | None:
        try:
            return image_size(folder / file_name)[::-1]
        except BROKEN_IMAGE:  # counted when it is decoded
            return None

    read = read_annotations(path / ANNOTATIONS, size_of)
    images = [image for image in read.images if image.instances]
    if not images:
        why = f": {'; '.join(read.notes)}" if read.notes else " besides crowd regions"
        raise UserError(f"{path / ANNOTATIONS}: no instance masks in it{why}")
    files = [image.file_name for image in images]
    for file in files:
        if not os.path.exists(folder / file):
            raise UserError(f"{folder / file}: missing, though the annotations name it; add it")
    if twice := [file for file, times in Counter(files).items() if times > 1]:
        raise UserError(f"{path / ANNOTATIONS}: {twice[0]} is the file of {files.count(twice[0])} images; name it once")
    notes = list(read.notes)
    if bare := [image.file_name for image in read.images if not image.instances]:
        notes.append(
            f"{len(bare):,} of {len(read.images):,} images are left out because no object is marked in them, such as "
            f"{bare[0]}"
        )
    names = [os.path.splitext(file)[0] for file in files]
    if len(set(names)) < len(names):
        names = files
    places = [ANNOTATIONS, *((folder / file).relative_to(path).as_posix() for file in files)]
    digests = fingerprint.hash_files(path, places, path, progress)
    identity = fingerprint.of_files(places, digests)
    return Coco(name, NAME, folder, dict(zip(names, images, strict=True)), identity, tuple(notes))
