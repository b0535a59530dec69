"""PASCAL VOC's segmentation folder (Everingham et al. 2010), as VOC 2012 ships it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, decode
from dinobench.data.masks import Masks, from_labels
from dinobench.data.video import read_labels
from dinobench.errors import BrokenImage, UserError

NAME = "voc"
SUMMARY = (
    "VOC2012/JPEGImages/*.jpg with SegmentationClass/*.png and SegmentationObject/*.png, listed in "
    "ImageSets/Segmentation/val.txt. Give VOCdevkit or VOC2012; in a VOCdevkit with several years the latest counts. "
    "Masks are indexed PNGs, 255 is void. Where val_object.txt is there, it lists the images that have object masks."
)
FOLDERS = {"instances": "SegmentationObject", "classes": "SegmentationClass"}


@dataclass(frozen=True)
class VOC:
    """Segmentation val of one year."""

    name: str
    layout: str
    root: Path
    lists: dict[str, tuple[str, ...]]
    fingerprint: str

    def ids(self, kind: str) -> Sequence[str]:
        """Image names of the list for "instances" or "classes"; UserError where the folder has none of these masks."""
        if not self.lists[kind]:
            raise UserError(f"{self.root / FOLDERS[kind]}: no masks of {kind}; add them or use --set masks=classes")
        return self.lists[kind]

    def load(self, image_id: str) -> Image.Image:
        """The RGB image. Raises UserError when it cannot be read."""
        path = self.root / "JPEGImages" / f"{image_id}.jpg"
        try:
            return decode(path)
        except BROKEN_IMAGE as error:
            raise BrokenImage(f"{path}: not a readable image ({error}); replace the file") from error

    def masks(self, image_id: str, kind: str) -> Masks:
        """Its instance or class masks with the void pixels. Raises UserError when they cannot be read."""
        path = self.root / FOLDERS[kind] / f"{image_id}.png"
        return from_labels(read_labels(path), source=path)


def recognises(path: Path) -> bool:
    """VOCdevkit, or one year's folder in it."""
    return root_of(path) is not None


def default_name(path: Path) -> str:
    """The year's folder, which VOCdevkit's own name does not tell."""
    return (root_of(path) or path).resolve().name


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> VOC:
    """Read the lists and hash what they name. Raises UserError for a missing list, image or mask."""
    root = root_of(path)
    if root is None:
        raise UserError(f"{path}: no JPEGImages/ and SegmentationClass/ in it")
    sets = root / "ImageSets" / "Segmentation"
    images = read_list(sets / "val.txt")
    with_objects = read_list(sets / "val_object.txt") if (sets / "val_object.txt").is_file() else images
    lists = {"classes": images, "instances": with_objects if (root / FOLDERS["instances"]).is_dir() else ()}
    files = [f"JPEGImages/{image}.jpg" for image in dict.fromkeys((*images, *with_objects))]
    files += [f"{FOLDERS[kind]}/{image}.png" for kind, listed in lists.items() for image in listed]
    for file in files:
        if not os.path.exists(root / file):
            raise UserError(f"{root / file}: missing, though the list in {sets} names it; add it or take it off")
    digests = fingerprint.hash_files(root, files, path, progress)
    return VOC(name, NAME, root, lists, fingerprint.of_files(files, digests))


def root_of(path: Path, needed: Sequence[str] = ("JPEGImages", "SegmentationClass")) -> Path | None:
    """The folder with those `needed` that `path` is or holds, of several years the latest."""
    years = sorted(path.glob("VOC20[0-9][0-9]"), reverse=True) if path.is_dir() else []
    for folder in (path, *years, *sorted((path / "VOCdevkit").glob("VOC20[0-9][0-9]"), reverse=True)):
        if all((folder / name).is_dir() for name in needed):
            return folder
    return None


#: What the second column of the lists in ImageSets/Main holds: the image shows their class, does not, or hardly does.
VERDICTS = ("1", "-1", "0")


def read_list(path: Path) -> tuple[str, ...]:
    """The names in the first column. Raises UserError for a list of one class and for a name that is there twice."""
    if not path.is_file():
        raise UserError(f"{path}: no such list; it names the images to score on, one per line")
    lines: dict[str, int] = {}
    # Splitting at other line ends that Unicode knows would cut names in two.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        name, *others = line.split() or [""]
        if not name:
            continue
        if others[:1] and others[0] in VERDICTS:
            raise UserError(
                f"{path}: line {number} has a second column, {others[0]!r}, as the lists of one class in "
                "ImageSets/Main have; give a list of the images to score on, one name per line"
            )
        if not name.isprintable():
            raise UserError(f"{path}: line {number} names {name!r}, which is no image's name; mend the list")
        if name in lines:
            raise UserError(f"{path}: {name} is listed twice, on lines {lines[name]} and {number}; list it once")
        lines[name] = number
    if not lines:
        raise UserError(f"{path}: empty; list one image name per line")
    return tuple(lines)
