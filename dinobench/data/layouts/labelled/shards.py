"""Data sets cut into files: which of them are train's, val's or test's, and in which order they are read.

The names are those that Hugging Face's `datasets` knows (its documentation, "Structure your repository"): a split's
name is a word in a file's name, `train-00000-of-00004.parquet`, or in its folder's, `test/0.tar`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinobench.data.layouts.imagefolder import TEST_FOLDERS, is_hidden
from dinobench.errors import UserError

#: What a split may be called.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
#: Folders of a data set that are looked into: more of them are classes.
FOLDERS = 64
_OF = re.compile(r"-([0-9]{5})-of-([0-9]{5})\b")


def split_of(name: str) -> str:
    """The split that a name says, or an empty text.

    >>> split_of("imagenet1k-validation-07"), split_of("train-00000-of-00004-5af744adb8610bf6"), split_of("00000")
    ('val', 'train', '')
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for word in words for split, names in SPLITS.items() if word in names), "")


def in_order(names: list[str]) -> list[str]:
    """By name, with numbers by their value.

    >>> in_order(["10.tar", "9.tar"])
    ['9.tar', '10.tar']
    """
    return sorted(names, key=lambda name: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"([0-9]+)", name))])


def find(path: Path, ending: str) -> list[str]:
    """Files with this ending in a folder, in folders of it, and in folders called as splits in those, below `path`.

    Where the folder has train/, val/, validation/ or test/, only what is in those counts, and nothing where folders are
    in them: what an ImageFolder was unpacked from may lie beside it.
    """
    if path.is_file():
        return [path.name] if path.name.lower().endswith(ending) else []
    found: list[str] = []
    if not path.is_dir():
        return found
    folders, splits = 0, False
    for entry in _visible(path):
        if not entry.is_dir():
            found += [entry.name] if _is(entry, ending) else []
        elif (folders := folders + 1) <= FOLDERS:
            own = entry.name in ("train", *TEST_FOLDERS)
            splits |= own
            for inner in _visible(entry.path):
                if own and inner.is_dir():
                    return []
                if not inner.is_dir():
                    found += [f"{entry.name}/{inner.name}"] if _is(inner, ending) else []
                elif split_of(inner.name):
                    found += [f"{entry.name}/{inner.name}/{e.name}" for e in _visible(inner.path) if _is(e, ending)]
    return [file for file in found if "/" in file] if splits else found


def any_in(path: Path, ending: str) -> bool:
    """Whether `find` finds one; folders that cannot be read hold none."""
    try:
        return bool(find(path, ending))
    except OSError:
        return False


def by_split(path: Path, files: list[str]) -> dict[str, list[str]]:
    """Split, or "" where no name says one -> its files, in order.

    Raises UserError where the files are those of several data sets, or some of a numbered row are missing.
    """
    splits: dict[str, list[str]] = {}
    sets: set[str] = set()
    for file in in_order(files):
        *folders, last = file.split("/")
        named = next(filter(None, map(split_of, (last.rsplit(".", 1)[0], *reversed(folders)))), "")
        splits.setdefault(named, []).append(file)
        sets.add("/".join(f for f in folders if not split_of(f)))
    if len(sets) > 1:
        raise UserError(f"{path}: holds several data sets ({', '.join(sorted(s or '.' for s in sets))}); give one")
    for files in splits.values():
        _require_all(path, files)
    return {split: splits[split] for split in ("train", "val", "test", "") if split in splits}


def _require_all(path: Path, files: list[str]) -> None:
    """Of `train-00000-of-00004` and its like all four."""
    rows: dict[str, tuple[int, set[int]]] = {}
    for file in files:
        if found := _OF.search(file):
            rows.setdefault(file[: found.start()], (int(found[2]), set()))[1].add(int(found[1]))
    for start, (count, seen) in rows.items():
        if lost := sorted(set(range(count)) - seen):
            raise UserError(
                f"{path}: {len(lost)} of {count:,} files are missing, such as {start}-{lost[0]:05d}-of-{count:05d}; "
                "download them again"
            )


def _visible(folder: str | os.PathLike[str]) -> Iterator[Any]:
    with os.scandir(folder) as entries:
        yield from sorted((e for e in entries if not is_hidden(e.name)), key=lambda e: e.name)


def _is(entry: Any, ending: str) -> bool:
    return entry.name.lower().endswith(ending) and entry.is_file()
