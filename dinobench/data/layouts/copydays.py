"""INRIA Copydays' layout: originals, blocks of edited copies, and maybe distractors and a whitening set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.imagefolder import EXTENSIONS, is_hidden, note_left_out, require_text
from dinobench.errors import UserError
from dinobench.files import user_path
from dinobench.types import ImageSplit

NAME = "copydays"
SUMMARY = (
    "original/*.jpg and any of strong/*.jpg, jpegqual/<q>/*.jpg, crops/<c>/*.jpg (INRIA Copydays, Douze et al. 2009). "
    "The first four characters of a strong name give its original; in every other block the n-th name is the copy of "
    "the n-th original. distractors/ joins the database and whitening/ is learned from, where they exist."
)
KEY = 4  # characters of a name that identify the original
SIDE = ("distractors", "whitening")


@dataclass(frozen=True, eq=False)
class Copies:
    """Originals and their copies. A block's `name` is its folder, its `labels` (n,) index `originals`.

    `blocks` starts with strong where there is one. `fingerprint` is over all parts, distractors and whitening too.
    """

    name: str
    layout: str
    originals: ImageSplit
    blocks: tuple[ImageSplit, ...]
    distractors: ImageSplit | None
    whitening: ImageSplit | None
    fingerprint: str
    notes: tuple[str, ...] = ()
    sides: tuple[str, str] = ("auto", "auto")


def recognises(path: Path) -> bool:
    """A folder with `original` in it."""
    return (path / "original").is_dir()


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> Copies:
    """Scan, match and hash the folder; images are decoded later.

    Raises UserError for a strong copy without original, a block that lacks an original's copy or has one too many, and
    when there are no originals or no copies.
    """
    left_out: list[str] = []
    originals = list_images(path, "original", left_out=left_out)
    if not originals:
        raise UserError(f"{path / 'original'}: holds no images ({' '.join(EXTENSIONS)})")
    folders = _block_folders(path)
    if not folders:
        raise UserError(f"{path}: has original/ but no copies; put strong/, jpegqual/<q>/ or crops/<c>/ beside it")
    files = {block: list_images(path, block, left_out=left_out) for block in folders}
    labels = {block: _match(path, block, names, originals) for block, names in files.items()}
    files["original"], labels["original"] = originals, np.arange(len(originals))
    for side in SIDE:
        if names := list_images(path, side, left_out=left_out):
            files[side], labels[side] = names, np.full(len(names), -1)
    digests = fingerprint.hash_files(path, [n for names in files.values() for n in names], path, progress)
    splits, start = {}, 0
    for block, names in files.items():
        part = digests[start : start + len(names)]
        start += len(names)
        splits[block] = _split(block, path, names, labels[block], part)
    blocks = tuple(splits[block] for block in folders)
    notes = (note,) if (note := note_left_out(left_out)) else ()
    sides = splits.get("distractors"), splits.get("whitening")
    return assemble(name, NAME, splits["original"], blocks, *sides, notes)


def assemble(
    name: str,
    layout: str,
    originals: ImageSplit,
    blocks: tuple[ImageSplit, ...],
    distractors: ImageSplit | None,
    whitening: ImageSplit | None,
    notes: tuple[str, ...] = (),
) -> Copies:
    """The data set with its fingerprint over every part's contents and the copies' originals; sizes go to `layout`."""
    parts = {"original": originals, **{b.name: b for b in blocks}}
    parts |= {n: s for n, s in (("distractors", distractors), ("whitening", whitening)) if s is not None}
    total = fingerprint.of_dataset(list(parts), [(s.fingerprint, s.labels) for s in parts.values()])
    sizes = ", ".join(f"{len(split)} {part}" for part, split in parts.items())
    return Copies(name, f"{layout} ({sizes})", originals, blocks, distractors, whitening, total, notes)


def with_side(data: Copies, distractors: str, whitening: str) -> Copies:
    """The data set with other distractors and whitening images: each `auto` (as found), `none`, or a folder.

    The fingerprint changes with them, so that scores against different databases are never taken for the same. What was
    chosen before is not read again, whatever has been cut from it since.
    """
    if data.sides == (distractors, whitening):
        return data

    def chosen(side: str, choice: str, own: ImageSplit | None) -> ImageSplit | None:
        if choice == "auto":
            return own
        return None if choice == "none" else _load_side(side, user_path(choice))

    new = {
        side: chosen(side, choice, getattr(data, side))
        for side, choice in zip(SIDE, (distractors, whitening), strict=True)
    }
    if all(split is getattr(data, side) for side, split in new.items()):
        return data
    sides = new["distractors"], new["whitening"]
    other = assemble(data.name, data.layout.split(" (")[0], data.originals, data.blocks, *sides, data.notes)
    return replace(other, sides=(distractors, whitening))


def list_images(root: Path, folder: str = "", deep: bool | None = None, left_out: list[str] | None = None) -> list[str]:
    """The images of `root/folder` as paths relative to `root`, sorted; with `deep` (side sets) also those below it.

    Visible files that are no images by their ending go to `left_out`.
    """
    deep = folder in SIDE if deep is None else deep
    names: list[str] = []
    seen: set[str] = set()
    for current, folders, files in os.walk(root / folder, followlinks=True):
        if (real := os.path.realpath(current)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if deep else []
        here = Path(current).relative_to(root).as_posix()
        prefix = "" if here == "." else f"{here}/"
        visible = [f for f in files if not is_hidden(f)]
        names += [prefix + f for f in visible if f.lower().endswith(EXTENSIONS)]
        if left_out is not None:
            left_out += [prefix + f for f in visible if not f.lower().endswith(EXTENSIONS)]
    names.sort()
    require_text(str(root), names)
    return names


def _load_side(side: str, folder: Path) -> FileSplit:
    if not folder.is_dir():
        raise UserError(f"{side}={folder}: no such folder; give a folder of images, or none")
    names = list_images(folder, deep=True)
    if not names:
        raise UserError(f"{side}={folder}: holds no images ({' '.join(EXTENSIONS)})")
    digests = fingerprint.hash_files(folder, names, folder)
    return _split(side, folder, names, np.full(len(names), -1), digests)


def _split(block: str, root: Path, names: Sequence[str], labels: np.ndarray, digests: np.ndarray) -> FileSplit:
    identity = fingerprint.of_files(names, digests)
    return FileSplit(block, str(root.absolute()), tuple(names), labels.astype(np.int64), identity)


def _block_folders(path: Path) -> list[str]:
    """Folders, one or two deep, that hold images directly: strong first, then by family and level."""
    tops = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    tops = [p for p in tops if p.name not in ("original", *SIDE)]
    folders = [p for top in tops for p in (top, *sorted(top.iterdir())) if p.is_dir() and not p.name.startswith(".")]
    names = [p.relative_to(path).as_posix() for p in folders]

    def order(name: str) -> tuple[bool, int, str, float, str]:
        family, _, level = name.partition("/")
        known = ("strong", "jpegqual", "crops")
        rank = known.index(family) if family in known else len(known)
        return name != "strong", rank, family, float(level) if level.isdecimal() else np.inf, level

    return sorted((n for n in names if list_images(path, n)), key=order)


def _match(path: Path, block: str, names: Sequence[str], originals: Sequence[str]) -> np.ndarray:
    """(n,) which original each of a block's images is the copy of."""
    keys = [_key(o) for o in originals]
    shared = [key for key, times in Counter(keys).items() if times > 1]
    index = {key: i for i, key in enumerate(keys)}
    if block == "strong":
        if shared:
            raise UserError(
                f"{path / 'original'}: several names start with {shared[0]!r}, and the first {KEY} characters of a "
                "strong copy's name must give its original; rename them"
            )
        if lost := [n for n in names if _key(n) not in index]:
            raise UserError(
                f"{path}: {_some(lost)} without original: none starts with {_some([_key(n) for n in lost], noun='')}; "
                f"the first {KEY} characters of the name must be an original's"
            )
        return np.array([index[_key(n)] for n in names])
    by_name = not shared and {_key(n) for n in names} & set(keys)
    if len(names) != len(originals):
        message = f"{path / block}: {len(names)} images for {len(originals)} originals"
        have = {_key(n) for n in names}
        lacking = [o for o in originals if _key(o) not in have] if by_name else []
        extra = [n for n in names if _key(n) not in index] if by_name else []
        message += f"; no copy of {_some(lacking)}" if lacking else ""
        message += f"; no original for {_some(extra)}" if extra else ""
        raise UserError(f"{message}. Every original needs one copy here, in the order of their names")
    if by_name:
        for name, original in zip(names, originals, strict=True):
            if _key(name) != _key(original):
                raise UserError(
                    f"{path / block}: {name} stands where the copy of {original} is due: the copies must sort by "
                    "name as the originals do"
                )
    return np.arange(len(originals))


def _key(file: str) -> str:
    return file.rsplit("/", 1)[-1][:KEY]


def _some(names: Sequence[str], limit: int = 5, noun: str = "images") -> str:
    """`a.jpg`, or `7 images (a.jpg, b.jpg, …)`."""
    unique = list(dict.fromkeys(names))
    listed = ", ".join(unique[:limit]) + (", …" if len(unique) > limit else "")
    return listed if len(unique) == 1 or not noun else f"{len(unique)} {noun} ({listed})"
