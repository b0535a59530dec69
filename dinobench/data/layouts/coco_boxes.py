"""COCO instances as boxes (Lin et al. 2014, arXiv 1405.0312), and the 20,000 images that object discovery scores on."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.boxes import BoxSet, BoxSplits, identity, with_objects
from dinobench.data.coco_json import read_boxes
from dinobench.data.decoding import decode
from dinobench.errors import UserError

NAME = "coco-boxes"
SUMMARY = (
    "annotations/instances_train2014.json (or another set's) and train2014/*.jpg or images/train2014/*.jpg. "
    "With coco_20k_filenames.txt of LOST beside them or in annotations/, its images are the split coco20k, which is "
    "then usual; --set split=val2017 takes all images of a set. Crowd regions are left out, and so are images without "
    "any other object."
)
PREFIX = "instances_"
#: The list of COCO20k as valeoai/LOST has it, one file name a line; its images are of train2014.
LIST, SPLIT, OF = "coco_20k_filenames.txt", "coco20k", "train2014"


def recognises(path: Path) -> bool:
    """A folder with instance annotations of any set."""
    return bool(_sets(path))


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> BoxSplits:
    """Find the sets; each is read when it is asked for."""
    sets = _sets(path)
    readers = {split: partial(_read, path, name, file, None, progress) for split, file in sets.items()}
    usual = next(iter(sets)) if len(sets) == 1 else None
    listed = next((f for f in (path / LIST, path / "annotations" / LIST) if f.is_file()), None)
    of = OF if OF in sets else usual
    if listed is not None and of is not None:
        readers[SPLIT] = partial(_read, path, name, sets[of], listed, progress)
        usual = SPLIT
    return BoxSplits(name, NAME, readers, usual)


def _read(path: Path, name: str, file: Path, listed: Path | None, progress: fingerprint.Progress | None) -> BoxSet:
    split = file.stem.removeprefix(PREFIX)
    wanted = None if listed is None else _names(listed)
    read = read_boxes(file, wanted)
    found = read.images
    if wanted is not None and (strangers := sorted(wanted - {image for image, _ in found.values()})):
        raise UserError(f"{listed}: {len(strangers):,} of its images are not in {file}, such as {strangers[0]}")
    folder = next((path / f for f in (split, f"images/{split}", "images") if (path / f).is_dir()), None)
    if folder is None:
        raise UserError(f"{path}: no images; put them in {path / split}")
    files = {key: image for key, (image, _) in found.items()}
    for image in files.values():
        if not os.path.exists(folder / image):
            raise UserError(f"{folder / image}: missing, though {listed or file} names it; add it")
    boxes = [b for _, b in found.values()]
    places = [(folder / image).relative_to(path).as_posix() for image in files.values()]
    fingerprint_ = identity(places, fingerprint.hash_files(path, places, path, progress), boxes)
    opener = partial(_open, folder, files)
    return with_objects(BoxSet(name, NAME, list(files), boxes, None, opener, fingerprint_, read.notes))


def _open(folder: Path, files: dict[str, str], image_id: str) -> Image.Image:
    return decode(folder / files[image_id])


def _sets(path: Path) -> dict[str, Path]:
    """The files of annotations by set, such as val2017."""
    return {f.stem.removeprefix(PREFIX): f for f in sorted((path / "annotations").glob(f"{PREFIX}*.json"))}


def _names(listed: Path) -> set[str]:
    """File names without the folders that a list may put before them."""
    lines = listed.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    names = {line.strip().rsplit("/", 1)[-1] for line in lines if line.strip()}
    if not names:
        raise UserError(f"{listed}: empty; list one image's file name per line")
    return names
