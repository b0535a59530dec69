"""WebDataset's shards: tar archives in which files of one name and several endings are one sample.

(Aizman et al. 2019, arXiv 2001.01858; its README, "The WebDataset Format": a sample's key is the path up to the first
dot of the file's name, what follows the dot says which part of the sample it is.) The sets of CLIP benchmark have
classnames.txt beside train/ and test/, a line a class. Members are found once by their offsets and read from there, in
the order of the shards and of the members in them, so that no number depends on who reads them.
"""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import PackedSplit
from dinobench.data.layouts import tar
from dinobench.data.layouts.imagefolder import EXTENSIONS, is_hidden, note_left_out, require_text
from dinobench.data.layouts.labelled import listing, shards
from dinobench.data.layouts.labelled.listing import Listing
from dinobench.data.tar_index import members
from dinobench.errors import UserError
from dinobench.files import open_regular, read_regular
from dinobench.types import ImageClassification, TrainingImages

NAME = "webdataset"
SUMMARY = (
    "train-000000.tar, … and val-*.tar or test-*.tar, or train/*.tar and test/*.tar (WebDataset's shards). "
    "Each image has its label beside it under the same key, as key.cls (a number) or in key.json as label or cls (a "
    "number or a name); classnames.txt names the classes, a line each. Archives are uncompressed and read in place; "
    "whatever else is in them is left out and counted, pickles among it."
)
ENDING, CLASS_NAMES = ".tar", "classnames.txt"
#: Fields of key.json that say the class, the first there is counts.
FIELDS = ("label", "cls", "class", "target")
#: Bytes of a label at most: a JSON text may hold a caption and much else.
LABEL = 1 << 20


def recognises(path: Path) -> bool:
    """A tar archive, or a folder that holds some."""
    return shards.any_in(path, ENDING)


default_name = tar.default_name


def load(path: Path, name: str, progress: Progress | None = None) -> ImageClassification:
    """Raises UserError for damaged archives, unsafe members, keys used twice and images without a label."""
    return listing.classification(listed(path), name, progress)


def load_images(path: Path, name: str, progress: Progress | None = None) -> TrainingImages:
    """The images of train's shards; where no name says which they are all images of all, as `tar` has them."""
    files = shards.find(path, ENDING)
    if not any(shards.split_of(file) for file in files) and all("/" not in file for file in files):
        return tar.load(path, name, progress)
    return listing.training(listed(path), name, progress)


def listed(path: Path) -> Listing:
    """The archives are looked through, labels are read, images are not."""
    root = path.parent if path.is_file() else path
    places: dict[str, fingerprint.Place] = {}
    values: list[int | str | None] = []
    parts: dict[str, np.ndarray] = {}
    left_out: list[str] = []
    for split, files in shards.by_split(path, shards.find(path, ENDING)).items():
        start = len(places)
        for file in files:
            _read(root, file, places, values, left_out)
        parts[split] = np.arange(start, len(places))
    if not places:
        raise UserError(f"{path}: its archives hold no images ({' '.join(EXTENSIONS)})")
    require_text(path, list(places))
    if all(value is None for value in values):
        raise UserError(
            f"{path}: its images have no labels beside them (key.cls or key.json); unpack archives of class folders "
            "and give the folder, or use the images for `dinobench pretrain`"
        )
    labels, classes = listing.numbered(values, _class_names(root), path)
    whole = PackedSplit("", str(root.absolute()), tuple(places), labels, "", places)
    note = note_left_out(left_out)
    count = len({place[0] for place in places.values()})
    layout = f"{NAME}, {count} shard{'s' * (count > 1)}"
    return Listing(layout, path, whole, parts, classes, (note,) if note else ())


def _class_names(root: Path) -> list[str] | None:
    file = root / CLASS_NAMES
    try:
        return read_regular(file, LABEL * 64).decode().splitlines() if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); put a class name on each line") from error


def _read(
    root: Path,
    file: str,
    places: dict[str, fingerprint.Place],
    values: list[int | str | None],
    left_out: list[str],
) -> None:
    """Append what one archive holds, in its order."""
    images: dict[str, str] = {}
    labels: dict[str, tuple[bool, int | str | None]] = {}
    seen: set[str] = set()
    odd: list[str] = []
    with open_regular(root / file) as archive:
        for member, (_, offset, size) in members(root / file, odd):
            name = posixpath.normpath(member)
            if is_hidden(posixpath.basename(name)):
                continue
            if posixpath.isabs(member) or name.startswith("../"):
                raise UserError(f"{root / file}: {member!r:.80} leads out of the archive; do not trust this file")
            folder, last = posixpath.split(name)
            key, _, kind = last.partition(".")
            key = posixpath.join(folder, key)
            if name in seen:
                raise UserError(f"{root / file}: holds two files called {member}; pack it anew with each of them once")
            seen.add(name)
            if name.lower().endswith(EXTENSIONS):
                if key in images:
                    raise UserError(f"{root / file}: {images[key]} and {name} are both the image of {key}; keep one")
                images[key] = name
                places[f"{file}/{name}"] = file, offset, size
            elif kind.lower() in ("cls", "json"):
                exact = kind.lower() == "cls"
                if exact or not labels.get(key, (False, None))[0]:
                    labels[key] = exact, _label(archive, offset, size, exact, f"{root / file}: {name}")
            else:
                left_out.append(f"{file}/{name}")
    if odd:
        raise UserError(f"{root / file}: {odd[0]!r:.80} is a link or device, not a file; pack it anew with files alone")
    values += [labels.get(key, (False, None))[1] for key in images]


def _label(archive: BinaryIO, offset: int, size: int, exact: bool, where: str) -> int | str | None:
    """The class that a member says, as number or name; None where a JSON text says none."""
    if size > LABEL:
        raise UserError(f"{where}: a label of {size:,} bytes; {LABEL:,} are the limit")
    archive.seek(offset)
    content = archive.read(size)
    try:
        found = int(content) if exact else json.loads(content)
        if isinstance(found, dict):
            found = next((found[field] for field in FIELDS if field in found), None)
        if found is None or (isinstance(found, int | str) and not isinstance(found, bool)):
            return found
    except (ValueError, RecursionError):
        pass
    wanted = "a whole number" if exact else f"JSON with one of {', '.join(FIELDS)}, a number or a name"
    raise UserError(f"{where}: no label ({wanted}); pack it anew")
