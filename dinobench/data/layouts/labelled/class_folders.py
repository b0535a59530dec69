"""Class folders without a split: refused as they are, divided on request."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.imagefolder import EXTENSIONS, TEST_FOLDERS, is_hidden, note_left_out, scan_split
from dinobench.data.layouts.labelled.listing import Listing, numbered

NAME = "class_folders"
SUMMARY = (
    "<class>/**/*.jpg without a split, only as PATH@split=0.2 or PATH@split=0.2,seed=1. "
    "That share of each class is scored on, chosen by the SHA-256 of the seed and the image's path below the folder, "
    "the same on every machine; share, seed and counts go into the record. Never divided without being asked to."
)


def recognises(path: Path) -> bool:
    """Never: it is no data set before somebody says how it is to be divided."""
    return False


def undivided(path: Path) -> bool:
    """Whether a folder holds folders with images at once in them, none of them called train or test."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        folders = sorted(e.name for e in entries if not is_hidden(e.name) and e.is_dir())
    return not set(folders) & {"train", *TEST_FOLDERS} and any(_has_image(path / name) for name in folders)


def listed(path: Path) -> Listing:
    """Raises UserError for a class without images."""
    left_out: list[str] = []
    ids, names = scan_split(path, ".", left_out)
    labels, classes = numbered(names, None, path)
    whole = FileSplit("", str(path.absolute()), tuple(i.removeprefix("./") for i in ids), labels, "")
    note = note_left_out([name.removeprefix("./") for name in left_out])
    return Listing(NAME, path, whole, {"": np.arange(len(ids))}, classes, (note,) if note else ())


def _has_image(folder: Path) -> bool:
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if any(f.lower().endswith(EXTENSIONS) and not is_hidden(f) for f in files):
            return True
    return False
