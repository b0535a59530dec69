"""Annotation files in COCO's form (cocodataset.org/#format-data), read with every field checked.

pycocotools trusts what it is given: coordinates size its buffers, run lengths its loops, and a key that joins nothing
joins nothing without a word. Here a file becomes images and annotations whose types, sizes and joins have been looked
at, and pycocotools draws checked polygons only.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinobench.data.decoding import MAX_PIXELS
from dinobench.errors import UserError

Key = int | str
#: Ids go through float64 columns, which hold every whole number up to here.
MAX_ID = 2**53
#: How far, in parts of a side and at least in pixels, a polygon may reach beyond its image: annotators' hands slip, but
#: polygons drawn at another scale than the image's are a fault.
SLACK, SLACK_PIXELS = 0.25, 16
#: Length in pixels of the longest outline, which pycocotools walks in steps of a fifth of a pixel, all in memory.
MAX_OUTLINE = 5_000_000


@dataclass(frozen=True, eq=False)
class Polygons:
    """Outlines, each (2 n,) float64 as x, y, x, y, …, whose union is the mask."""

    outlines: tuple[np.ndarray, ...]

    def mask(self, height: int, width: int) -> np.ndarray:
        """(H, W) bool, as pycocotools draws it."""
        from pycocotools import mask as drawing

        parts = drawing.frPyObjects([outline.tolist() for outline in self.outlines], height, width)
        return np.asarray(drawing.decode(drawing.merge(parts)), bool)


@dataclass(frozen=True, eq=False)
class Runs:
    """Run lengths (n,) int64, outside and inside by turns, down the columns."""

    lengths: np.ndarray

    def mask(self, height: int, width: int) -> np.ndarray:
        """(H, W) bool."""
        return np.repeat(np.arange(len(self.lengths)) % 2 == 1, self.lengths).reshape(width, height).T


@dataclass(frozen=True, eq=False)
class Instance:
    """One object: its annotation's id, its category's, and its mask."""

    id: int
    category: int
    shape: Polygons | Runs


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image and its objects in the file's order; `size` (height, width) is None where neither file nor image tells.

    Without a size the objects could not be checked and are left out; such an image cannot be decoded either.
    """

    id: Key
    file_name: str
    size: tuple[int, int] | None
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Annotations:
    """Images in the order of their ids, and how many annotations are left out, by reason."""

    images: tuple[AnnotatedImage, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Boxes:
    """By the image's id in the file: its file's name, and boxes (K, 4) float64 x1, y1, x2, y2 of its objects."""

    images: Mapping[str, tuple[str, np.ndarray]]
    notes: tuple[str, ...]


def read_annotations(file: Path, size_of: Callable[[str], tuple[int, int] | None]) -> Annotations:
    """Read and check `file`; crowd regions are passed over.

    `size_of(file_name)` is asked for the (height, width) that an image's entry lacks. Raises UserError with the file,
    the annotation or image at fault, and the remedy.
    """
    content = _parse(file)
    images: dict[Key, Mapping[str, Any]] = {}
    for place, entry in enumerate(_entries(content, "images", file)):
        where = f"{file}: image {_named(entry, place)}"
        key = _key(entry.get("id"), "id", where)
        if key in images:
            raise UserError(f"{where}: its id is there twice; give every image an id of its own")
        if isinstance(key, str) != isinstance(next(iter(images), key), str):
            raise UserError(f"{where}: some ids are numbers and some text; write all the same way")
        _file_name(entry, where)
        images[key] = entry
    sizes = {key: _size(entry, f"{file}: image {_shown(key)}", size_of) for key, entry in images.items()}
    instances: dict[Key, list[Instance]] = {key: [] for key in images}
    seen: set[int] = set()
    strangers, empty = [], []
    for place, entry in enumerate(_entries(content, "annotations", file)):
        where = f"{file}: annotation {_named(entry, place)}"
        number = _whole(entry.get("id"), "id", where)
        if number in seen:
            raise UserError(f"{where}: its id is there twice; give every annotation an id of its own")
        seen.add(number)
        key = _key(entry.get("image_id"), "image_id", where)
        crowd = _is_crowd(entry.get("iscrowd"), where)
        if images and isinstance(key, str) != isinstance(next(iter(images)), str):
            kinds = ("text", "numbers") if isinstance(key, str) else ("a number", "text")
            raise UserError(
                f"{where}: image_id {_shown(key)} is {kinds[0]}, but the ids of images are {kinds[1]}, so that it "
                "joins none; write both the same way"
            )
        if key not in images:
            strangers.append((number, key))
            continue
        if crowd:
            continue
        if entry.get("segmentation") in (None, [], {}, ""):
            empty.append(number)
            continue
        category = _whole(entry.get("category_id"), "category_id", where)
        if (size := sizes[key]) is not None:
            instances[key].append(Instance(number, category, _shape(entry["segmentation"], size, where)))
        else:
            instances[key].append(Instance(number, category, Polygons(())))
    notes = []
    if strangers:
        number, key = strangers[0]
        notes.append(
            f"{len(strangers):,} of {len(seen):,} annotations are left out because they point at images that "
            f"{file.name} does not list, such as annotation {number} at image {_shown(key)}"
        )
    if empty:
        notes.append(
            f"{len(empty):,} of {len(seen):,} annotations are left out because they have no segmentation, such as "
            f"{empty[0]}"
        )
    # In the order of ids, which is the order of the images in the score's items.
    annotated = [
        AnnotatedImage(key, images[key]["file_name"], sizes[key], tuple(instances[key]))
        for key in sorted(images, key=lambda key: (isinstance(key, str), key))
    ]
    return Annotations(tuple(annotated), tuple(notes))


def read_boxes(file: Path, wanted: Collection[str] | None = None) -> Boxes:
    """Of every image its file's name and its objects' boxes, in the order of ids; crowds are left out.

    `wanted` are the file names to take, all where None. Sides are rounded to whole pixels, halves to the even one, as
    valeoai/LOST does (`datasets.py`, `extract_gt_COCO`). Raises UserError with the file and what is at fault in it.
    """
    content = _parse(file)
    names: dict[Key, str] = {}
    for place, entry in enumerate(_entries(content, "images", file)):
        where = f"{file}: image {_named(entry, place)}"
        key = _key(entry.get("id"), "id", where)
        if key in names:
            raise UserError(f"{where}: its id is there twice; give every image an id of its own")
        _file_name(entry, where)
        names[key] = entry["file_name"]
    taken = sorted(
        (k for k, n in names.items() if wanted is None or n in wanted), key=lambda k: (isinstance(k, str), k)
    )
    boxes: dict[Key, list[list[int]]] = {key: [] for key in taken}
    strangers: list[str] = []
    for place, entry in enumerate(_entries(content, "annotations", file)):
        where = f"{file}: annotation {_named(entry, place)}"
        key = _key(entry.get("image_id"), "image_id", where)
        if key not in names:
            strangers.append(f"annotation {_named(entry, place)} at image {_shown(key)}")
        elif key in boxes and not _is_crowd(entry.get("iscrowd"), where):
            boxes[key].append(_box(entry.get("bbox"), where))
    notes = (
        f"{len(strangers):,} annotations are left out because they point at images that {file.name} does not list, "
        f"such as {', '.join(strangers[:1])}",
    )
    found = {str(key): (names[key], np.array(boxes[key], np.float64).reshape(-1, 4)) for key in taken}
    return Boxes(found, notes if strangers else ())


def _box(bbox: Any, where: str) -> list[int]:
    """x, y, width, height -> x1, y1, x2, y2."""
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(v) in (int, float) for v in bbox)
    if not numbers or not all(abs(v) <= MAX_PIXELS for v in bbox) or min(bbox[2:]) < 0:
        raise UserError(f"{where}: its bbox {_shown(bbox)} is no x, y, width and height in pixels; mend it")
    x, y, width, height = bbox
    return [round(v) for v in (x, y, x + width, y + height)]


def _parse(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested beyond measure, numbers of 5,000 digits
        raise UserError(f"{file}: not a COCO annotation file ({error}); download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a COCO annotation file, which holds lists of images and annotations")
    return content


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two lists of annotations json would keep the second."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {_shown(next(k for k in keys if keys.count(k) > 1))} is there twice in one object")
    return found


def _entries(content: Mapping[str, Any], name: str, file: Path) -> list[Mapping[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list):
        raise UserError(f"{file}: not a COCO annotation file: it has no list of {name}")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{file}: entry {place + 1} of {name} is {_shown(entry)}, not an object with fields")
    return entries


def _named(entry: Mapping[str, Any], place: int) -> str:
    """An entry's id for messages, or where there is none its place in the list."""
    return _shown(entry["id"]) if isinstance(entry.get("id"), int | str) else f"at place {place + 1} of the list"


def _is_whole(value: Any) -> bool:
    """Whole numbers, 3.0 among them as tables write it; true and false are none."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: Any, field: str, where: str) -> int:
    if not _is_whole(value) or not -MAX_ID <= value <= MAX_ID:
        problem = f"its {field} is {_shown(value)}" if value is not None else f"it lacks {field}"
        raise UserError(f"{where}: {problem}; give a whole number")
    return int(value)


def _key(value: Any, field: str, where: str) -> Key:
    """What joins annotations to images: a whole number, or text where all are text."""
    return value if isinstance(value, str) else _whole(value, field, where)


def _file_name(entry: Mapping[str, Any], where: str) -> None:
    """Within the folder of images, and fit to be printed and hashed."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        problem = "it lacks file_name" if name is None else f"its file_name is {_shown(name)}"
        raise UserError(f"{where}: {problem}; name the image's file")
    if not name.isprintable() or name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name[:2]:
        raise UserError(f"{where}: its file_name {_shown(name)} does not name a file in the folder of images; mend it")


def _size(
    entry: Mapping[str, Any], where: str, size_of: Callable[[str], tuple[int, int] | None]
) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if height is None or width is None:
        return size_of(entry["file_name"])
    if not all(_is_whole(v) and 0 < v <= MAX_PIXELS for v in (height, width)) or height * width > MAX_PIXELS:
        raise UserError(
            f"{where}: height {_shown(height)} and width {_shown(width)} are no size in pixels (at most {MAX_PIXELS:,} "
            "in all); give the image's own"
        )
    return int(height), int(width)


def _is_crowd(value: Any, where: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, int | float) or value not in (0, 1):
        raise UserError(f"{where}: its iscrowd is {_shown(value)}; give 0 or 1")
    return bool(value)


def _shape(segmentation: Any, size: tuple[int, int], where: str) -> Polygons | Runs:
    """The checked mask of an annotation in an image of `size` (height, width)."""
    if isinstance(segmentation, dict):
        return Runs(_runs(segmentation, size, where))
    if not isinstance(segmentation, list):
        raise UserError(f"{where}: its segmentation is {_shown(segmentation)}, neither polygons nor runs; mend it")
    return Polygons(tuple(_outline(outline, size, where) for outline in segmentation))


def _outline(outline: Any, size: tuple[int, int], where: str) -> np.ndarray:
    if not isinstance(outline, list):
        raise UserError(f"{where}: its polygon is {_shown(outline)}, not a list of numbers; write [[x, y, x, y, …]]")
    if not all(type(v) is float or type(v) is int for v in outline):
        odd = next(v for v in outline if type(v) is not float and type(v) is not int)
        raise UserError(f"{where}: its polygon holds {_shown(odd)}; coordinates are numbers")
    if len(outline) < 6 or len(outline) % 2:
        raise UserError(
            f"{where}: its polygon has {len(outline)} numbers; a polygon is x and y of at least three points. Mend the "
            "annotation or take it out"
        )
    height, width = size
    for side, name, values in ((width, "x", outline[0::2]), (height, "y", outline[1::2])):
        slack = max(SLACK * side, SLACK_PIXELS)
        for value in (min(values), max(values), *(v for v in values if v != v)):  # min and max pass over NaN
            if not -slack <= value <= side + slack:
                raise UserError(
                    f"{where}: its polygon has {name} = {_shown(value)}, but its image is {width} x {height} pixels; "
                    "mend the polygon, or the image's height and width"
                )
    points = np.array(outline, float).reshape(-1, 2)
    if np.abs(points - np.roll(points, 1, 0)).max(1).sum() > MAX_OUTLINE:
        raise UserError(f"{where}: the outline of its polygon is longer than {MAX_OUTLINE:,} pixels; mend it")
    if not ((points < (width, height)).any(0) & (points > 0).any(0)).all():
        raise UserError(f"{where}: its polygon lies outside its image of {width} x {height} pixels; mend it")
    return points.ravel()


def _runs(segmentation: Mapping[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    height, width = size
    stated = segmentation.get("size")
    if not isinstance(stated, list) or stated != [height, width] or not all(map(_is_whole, stated)):
        raise UserError(
            f"{where}: its run lengths are for a size of {_shown(stated)}, but its image has height and width "
            f"[{height}, {width}]; scale the mask or the image"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        lengths = unpack(counts)
    elif isinstance(counts, list) and all(_is_whole(c) and 0 <= c <= MAX_PIXELS for c in counts):
        lengths = np.array(counts, np.int64)
    else:
        lengths = None
    # Each is looked at before the sum, which could come out right by overflowing.
    if lengths is None or (len(lengths) and (lengths.min() < 0 or lengths.max() > MAX_PIXELS)):
        raise UserError(f"{where}: its counts {_shown(counts)} are no run lengths of an image; download the file again")
    if (total := int(lengths.sum())) != height * width:
        raise UserError(
            f"{where}: its run lengths sum to {total:,}, but {width} x {height} pixels are {height * width:,}; "
            "mend the annotation"
        )
    return lengths


def unpack(counts: str) -> np.ndarray | None:
    """The run lengths (n,) int64 in pycocotools' compressed text, or None where it holds something else.

    Each is written in digits of five bits, lowest first, from the character 48 on, with a sixth bit where more follow
    and the sign in the last one's fifth; from the fourth on it is the difference to the one before the last.

    >>> unpack("52203")
    array([5, 2, 2, 2, 5])
    """
    try:
        digits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not 0 < len(digits) < MAX_PIXELS or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.r_[0, ends[:-1] + 1]
    sizes = ends - starts + 1
    if sizes.max() > 7:  # 35 bits, more than any length of an image has
        return None
    place = np.arange(len(digits)) - np.repeat(starts, sizes)
    lengths = np.add.reduceat((digits & 31) << (5 * place), starts)
    lengths -= np.where(digits[ends] & 16, np.int64(1) << (5 * sizes), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxlong = 2, 4, 2, 60, 30


def _shown(value: Any) -> str:
    """A foreign value for a message: short, on one line."""
    return "null" if value is None else _SHORT.repr(value)
