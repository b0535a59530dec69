"""ImageFolder: one folder per class under `train/` and `val/` or `test/`, ordered as torchvision orders it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
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
    "out, other files counted. val goes before validation and test where several exist. Classes and files are "
    "ordered as by torchvision's ImageFolder, and its file endings count: jpg, jpeg, png, ppm, bmp, pgm, tif, tiff, "
    "webp in either case."
)
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision
TEST_FOLDERS = ("val", "validation", "test")
#: Files that operating systems leave in folders, lower case: nobody misses them.
LITTER = ("thumbs.db", "desktop.ini")


def recognises(path: Path) -> bool:
    """A folder with any of the split folders; what is missing beside it, `load` says."""
    return any((path / split).is_dir() for split in ("train", *TEST_FOLDERS))


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> ImageClassification:
    """Scan and hash both splits; images are decoded later. Raises UserError for every way in which they do not fit."""
    tests = [split for split in TEST_FOLDERS if (path / split).is_dir()]
    if not (path / "train").is_dir():
        raise UserError(f"{path}: has {tests[0]}/ but no train/ to learn from or vote with; put train/ beside it")
    if not tests:
        raise UserError(
            f"{path}: has train/ but no val/, validation/ or test/ to score on; put one beside it, or have a "
            f"fifth of each class drawn: {path / 'train'}@split=0.2"
        )
    ignored = "".join(f", {other} ignored" for other in tests[1:])
    left_out: list[str] = []
    labelled = {split: scan_split(path, split, left_out) for split in ("train", tests[0])}
    notes = [note] if (note := note_left_out(left_out)) else []
    return from_files(name, f"{NAME} (train, {tests[0]}{ignored})", path, path, labelled, progress, notes)


def scan_split(path: Path, split: str, left_out: list[str], complete: bool = True) -> tuple[list[str], list[str]]:
    """(image paths relative to `path`, the class of each), in torchvision's order.

    What is no image by its ending goes to `left_out`. Raises UserError for a split without class folders or images,
    and for a class without one image where they must be `complete`: torchvision does too, and its images may be there
    under an ending that does not count.
    """
    with os.scandir(path / split) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
    names = sorted(entry.name for entry in visible if entry.is_dir())
    left_out += sorted(f"{split}/{entry.name}" for entry in visible if not entry.is_dir())
    if not names:
        raise UserError(f"{path / split}: no class folders; images belong in {split}/<class>/")
    ids: list[str] = []
    labels: list[str] = []
    for name in names:
        others: list[str] = []
        images = _images(str(path), f"{split}/{name}", others)
        if complete and not images and not _only_hidden(path / split / name):
            why = f"its files end in {_endings(others)}" if others else "it is empty"
            raise UserError(
                f"{path / split / name}: a class without images ({why}); endings that count are "
                f"{' '.join(EXTENSIONS)}; convert its files or take the folder away"
            )
        left_out += others
        ids += images
        labels += [name] * len(images)
    if not ids:
        raise UserError(f"{path / split}: its class folders hold no images ({' '.join(EXTENSIONS)})")
    return ids, labels


def note_left_out(files: Sequence[str]) -> str | None:
    """What a record says of files that are no images by their ending; None where there are none.

    >>> note_left_out(["train/a/x.gif", "train/b/y.JFIF", "train/b/z.gif"])
    'left out for their ending: 3 files (2 .gif, 1 .jfif), such as train/a/x.gif'
    """
    if not files:
        return None
    count = "1 file" if len(files) == 1 else f"{len(files):,} files"
    return f"left out for their ending: {count} ({_endings(files, counted=True)}), such as {files[0]}"


def _endings(files: Sequence[str], counted: bool = False) -> str:
    endings = Counter(os.path.splitext(file)[1].lower() or "no ending" for file in files).most_common()
    shown = [f"{n:,} {ending}" if counted else ending for ending, n in endings[:4]]
    return ", ".join(shown) + (", …" if len(endings) > 4 else "")


def is_hidden(name: str) -> bool:
    """Whether nobody misses a file of this name."""
    return name.startswith(".") or name.lower() in LITTER


def _only_hidden(folder: Path) -> bool:
    """Whether a folder has entries, none of them visible: what archives and notebooks leave behind."""
    names = [name for _, _, files in os.walk(folder) for name in files]
    return bool(names) and all(map(is_hidden, names))


def _images(root: str, folder: str, others: list[str]) -> list[str]:
    """The images below `root/folder`: folders in the order of their full paths, then files by name.

    That is torchvision's order, and not that of the files' full paths: a folder's own files go before its subfolders'.
    Visible files that are no images by their ending are appended to `others`.
    """
    folders: dict[str, list[str]] = {}
    left_out: list[str] = []
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
                elif not is_hidden(entry.name):
                    left_out.append(relative)
    images = [file for current in sorted(folders) for file in sorted(folders[current])]
    require_text(root, [*images, *left_out])
    others += sorted(left_out)
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
