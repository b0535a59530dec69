"""PASCAL VOC's detection folders (Everingham et al. 2010), as VOC 2007 and 2012 ship them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.boxes import BoxSet, BoxSplits, boxes_of_masks, identity, with_objects
from dinobench.data.decoding import decode
from dinobench.data.layouts.voc import read_list
from dinobench.data.masks import from_labels
from dinobench.data.video import read_labels
from dinobench.errors import UserError
from dinobench.files import read_regular

NAME = "voc-boxes"
SUMMARY = (
    "VOC2007/JPEGImages/*.jpg with Annotations/*.xml, listed in ImageSets/Main/trainval.txt. Give VOCdevkit or one "
    "year's folder; in a VOCdevkit with several years the latest counts. --set split= takes another list, and `all` "
    "every annotated image, which is usual where there is no trainval.txt. Listed images without annotation are left "
    "out and counted; without Annotations/ the boxes are those around the masks in SegmentationObject/."
)
#: Lists that name images to score on; those of one class in ImageSets/Main have its name before these words.
LISTS = ("trainval", "train", "val", "test")
ALL = "all"
MASKS = "SegmentationObject"
#: Bytes of one image's annotation at most; the largest of VOC 2012 has a few thousand.
LIMIT = 1 << 20


def recognises(path: Path) -> bool:
    """VOCdevkit, or one year's folder in it."""
    return _root(path) is not None


def default_name(path: Path) -> str:
    """The year's folder, which VOCdevkit's own name does not tell."""
    return (_root(path) or path).resolve().name


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> BoxSplits:
    """Find the lists; each is read when it is asked for. Raises UserError where there are no annotations."""
    root = _root(path)
    if root is None:
        raise UserError(f"{path}: no JPEGImages/ with Annotations/ in it")
    lists: dict[str, Path | None] = {}
    for folder in ("Main", "Segmentation"):
        for file in sorted((root / "ImageSets" / folder).glob("*.txt")):
            if not file.stem.endswith(tuple(f"_{end}" for end in LISTS)):
                lists.setdefault(file.stem, file)
    lists.setdefault(ALL, None)
    readers = {split: partial(_read, root, path, name, file, progress) for split, file in lists.items()}
    return BoxSplits(name, NAME, readers, LISTS[0] if LISTS[0] in lists else ALL)


def _read(root: Path, path: Path, name: str, file: Path | None, progress: fingerprint.Progress | None) -> BoxSet:
    """The images of one list, or all that are annotated."""
    folder, ending, read = _annotations(root)
    annotated = sorted(f.stem for f in folder.glob(f"*{ending}"))
    ids = annotated if file is None else list(read_list(file))
    kept = [i for i in ids if (folder / f"{i}{ending}").is_file()]
    if not kept:
        raise UserError(
            f"{folder}: annotates none of the {len(ids):,} images of {file or root}; add the {ending} files"
        )
    notes = []
    if missing := len(ids) - len(kept):
        first = next(i for i in ids if not (folder / f"{i}{ending}").is_file())
        notes.append(
            f"{missing:,} of the {len(ids):,} images of {file and file.name} are left out because {folder.name}/ does "
            f"not annotate them, such as {first}"
        )
    if folder.name == MASKS:
        notes.append(f"there is no Annotations/: the boxes are those around the masks in {MASKS}/")
    files = [f"JPEGImages/{i}.jpg" for i in kept]
    for image in files:
        if not os.path.exists(root / image):
            raise UserError(f"{root / image}: missing, though {folder.name}/ annotates it; add it")
    objects = [read(folder / f"{i}{ending}") for i in kept]
    boxes = [b for b, _ in objects]
    hard = [h for _, h in objects if h is not None]
    fingerprint_ = identity(files, fingerprint.hash_files(root, files, path, progress), boxes, hard)
    opener = partial(_open, root)
    return with_objects(BoxSet(name, NAME, kept, boxes, hard or None, opener, fingerprint_, tuple(notes)))


def _open(root: Path, image_id: str) -> Image.Image:
    return decode(root / "JPEGImages" / f"{image_id}.jpg")


def _root(path: Path) -> Path | None:
    years = sorted(path.glob("VOC20[0-9][0-9]"), reverse=True) if path.is_dir() else []
    for folder in (path, *years, *sorted((path / "VOCdevkit").glob("VOC20[0-9][0-9]"), reverse=True)):
        if (folder / "JPEGImages").is_dir() and any((folder / a).is_dir() for a in ("Annotations", MASKS)):
            return folder
    return None


def _annotations(root: Path) -> tuple[Path, str, Callable[[Path], tuple[np.ndarray, np.ndarray | None]]]:
    """The folder that says what is in the images, the ending of its files, and what reads one."""
    if (root / "Annotations").is_dir():
        return root / "Annotations", ".xml", read_xml
    return root / MASKS, ".png", _read_mask


def _read_mask(file: Path) -> tuple[np.ndarray, None]:
    return boxes_of_masks(from_labels(read_labels(file), source=file).masks), None


def read_xml(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K, 4) float64 of an annotation's objects, and whether each is truncated or difficult (K,) bool.

    The file's coordinates are pixels counted from 1, both ends included: as sides of a box they are xmin - 1, ymin - 1,
    xmax, ymax (valeoai/LOST `datasets.py`, `extract_gt_VOC`). Parts of objects, such as hands, are none.

    Raises UserError naming the file for what is no such annotation.
    """
    boxes, hard = [], []
    for number, found in enumerate(_objects(file), 1):
        corners = [found.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = map(float, corners)
        except ValueError:
            raise UserError(f"{file}: object {number} has no bndbox of four numbers ({', '.join(corners)})") from None
        if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 < x1 or y2 < y1:
            raise UserError(f"{file}: object {number} has the box {', '.join(corners)}, whose sides are none; mend it")
        boxes.append((x1 - 1, y1 - 1, x2, y2))
        hard.append(any(found.findtext(flag, "0").strip() == "1" for flag in ("truncated", "difficult")))
    return np.array(boxes, np.float64).reshape(-1, 4), np.array(hard, bool)


def read_objects(file: Path) -> list[tuple[str, bool]]:
    """The class of each of an annotation's objects, and whether it is difficult. Raises UserError as `read_xml`."""
    named = [(found.findtext("name", "").strip(), found.findtext("difficult", "0").strip() == "1")
             for found in _objects(file)]  # fmt: skip
    if not all(name for name, _ in named):
        raise UserError(f"{file}: an object has no name; copy it again")
    return named


def _objects(file: Path) -> list[ElementTree.Element]:
    try:
        content = read_regular(file, LIMIT)
        if b"<!DOCTYPE" in content:  # entities can grow without bounds
            raise UserError(f"{file}: declares a document type, which VOC's annotations do not have; take it out")
        root = ElementTree.fromstring(content)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{file}: not readable as XML ({error}); copy it again") from error
    if root.tag != "annotation":
        raise UserError(f"{file}: its root is <{root.tag}>, not <annotation> as in VOC's annotations; copy it again")
    return root.findall("object")
