"""ImageFolder: one folder per class under `train/` and `val/` or `test/`, ordered as torchvision orders it."""

from __future__ import annotations

import os
from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, decode
from dinobench.data.image_split import from_files
from dinobench.errors import UserError
from dinobench.types import ImageClassification

__all__ = ["BROKEN_IMAGE", "EXTENSIONS", "NAME", "SUMMARY", "decode", "load", "recognises"]

NAME = "imagefolder"
SUMMARY = (
    "train/<class>/**/*.jpg and val/<class>/**/*.jpg (or validation/ or test/). "
    "Class folders are the labels; images may lie in folders below them, links are followed, hidden files are left "
    "out. val goes before validation and test where several exist. Classes and files are ordered as by torchvision's "
    "ImageFolder, and its file endings count: jpg, jpeg, png, ppm, bmp, pgm, tif, tiff, webp in either case."
)
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision
TEST_FOLDERS = ("val", "validation", "test")


def recognises(path: Path) -> bool:
    """A folder with any of the split folders; what is missing beside it, `load` says."""
    return any((path / split).is_dir() for split in ("train", *TEST_FOLDERS))


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> ImageClassification:
    """Scan and hash both splits; images are decoded later. Raises UserError for every way in which they do not fit."""
    tests = [split for split in TEST_FOLDERS if (path / split).is_dir()]
    if not (path / "train").is_dir():
        raise UserError(f"{path}: has {tests[0]}/ but no train/ to learn from or vote with; put train/ beside it")
    if not tests:
        raise UserError(f"{path}: has train/ but no val/, validation/ or test/ to score on; put one beside it")
    ignored = "".join(f", {other} ignored" for other in tests[1:])
    labelled = {split: _scan_split(path, split) for split in ("train", tests[0])}
    return from_files(name, f"{NAME} (train, {tests[0]}{ignored})", path, path, labelled, progress)


def _scan_split(path: Path, split: str) -> tuple[list[str], list[str]]:
    """(image paths relative to `path`, the class of each), in torchvision's order; empty class folders add nothing."""
    with os.scandir(path / split) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    images = {name: _images(str(path), f"{split}/{name}") for name in names}
    if not names:
        raise UserError(f"{path / split}: no class folders; images belong in {split}/<class>/")
    if not any(images.values()):
        raise UserError(f"{path / split}: its class folders hold no images ({' '.join(EXTENSIONS)})")
    ids = [file for files in images.values() for file in files]
    return ids, [name for name, files in images.items() for _ in files]


def _images(root: str, folder: str) -> list[str]:
    """The images below `root/folder`: folders in the order of their full paths, then files by name.

    That is torchvision's order, and not that of the files' full paths: a folder's own files go before its subfolders'.
    """
    folders: dict[str, list[str]] = {}
    pending = [folder]
    while pending:
        current = pending.pop()
        files = folders[current] = []
        with os.scandir(f"{root}/{current}") as entries:
            for entry in entries:
                relative = f"{current}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if not (entry.is_symlink() and _leads_back(entry.path)):
                        pending.append(relative)
                elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink()):
                    files.append(relative)  # a dangling link counts as a broken image rather than vanish
    images = [file for current in sorted(folders) for file in sorted(folders[current])]
    require_text(root, images)
    return images


def _leads_back(link: str) -> bool:
    """Whether the link points to a folder that it lies in, which would be walked for ever."""
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, here]) == target


def require_text(root: object, names: list[str]) -> None:
    """File names become ids in records and tables, which are UTF-8."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        name = next(n for n in names if n != n.encode("utf-8", "replace").decode())
        raise UserError(f"{root}: file name {os.fsencode(name)!r} is not UTF-8; rename it") from None
