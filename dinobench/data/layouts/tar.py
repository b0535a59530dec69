"""Images to pretrain on in uncompressed tar archives, read from their places without unpacking."""

from __future__ import annotations

import posixpath
from pathlib import Path

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.image_split import PackedSplit
from dinobench.data.layouts.imagefolder import EXTENSIONS, is_hidden, note_left_out, require_text
from dinobench.data.tar_index import members
from dinobench.errors import UserError
from dinobench.types import TrainingImages

NAME = "tar"
SUMMARY = (
    "an uncompressed .tar of images, or a folder of such archives (shards). "
    "For `dinobench pretrain`. All images in them count, whatever their folders are called, in the order of the "
    "archives' names and then as they lie; what stands beside them, such as WebDataset's .cls and .json, is left out."
)


def recognises(path: Path) -> bool:
    """A .tar file, or a folder that holds some."""
    return path.suffix.lower() == ".tar" if path.is_file() else path.is_dir() and bool(_archives(path))


def default_name(path: Path) -> str:
    """The archive's name without its ending, or the folder's."""
    return path.resolve().stem if path.is_file() else path.resolve().name


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> TrainingImages:
    """List and hash the images; they are decoded later. Raises UserError where there are none."""
    root, archives = (path.parent, [path]) if path.is_file() else (path, _archives(path))
    places: dict[str, fingerprint.Place] = {}
    left_out: list[str] = []
    for archive in archives:
        for member, place in members(archive):
            image = f"{archive.name}/{posixpath.normpath(member).lstrip('/')}"
            if is_hidden(posixpath.basename(image)):
                continue
            if not image.lower().endswith(EXTENSIONS):
                left_out.append(image)
            elif places.setdefault(image, place) is not place:
                raise UserError(f"{archive}: holds two files called {member}; pack it anew with each of them once")
    if not places:
        raise UserError(f"{path}: its archives hold no images ({' '.join(EXTENSIONS)})")
    ids = tuple(places)
    require_text(path, list(ids))
    digests = fingerprint.hash_files(root, ids, path, progress, places)
    identity = fingerprint.of_files(ids, digests)
    split = PackedSplit("train", str(root.absolute()), ids, np.full(len(ids), -1, np.int64), identity, places)
    notes = (note,) if (note := note_left_out(left_out)) else ()
    sizes = f"{len(archives)} archive{'s' * (len(archives) > 1)}"
    return TrainingImages(name, f"{NAME} ({sizes})", (), split, digests, notes)


def _archives(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".tar" and not is_hidden(p.name) and p.is_file())
