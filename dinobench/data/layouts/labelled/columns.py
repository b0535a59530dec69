"""Which columns of a table of Hugging Face's `datasets` hold images and labels, and what the classes are called.

The library writes its features as JSON: into the schema of a Parquet file under the key "huggingface", as
{"info": {"features": ...}}, and beside Arrow files as dataset_info.json, {"features": ...} (its
src/datasets/features/features.py and arrow_writer.py). An image is a struct of its encoded bytes and its path; a
ClassLabel is an int64 with -1 for none, its names standing with the features.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dinobench.data.layouts.imagefolder import require_text
from dinobench.errors import UserError

#: What columns are called, the first there is counts: as in the sets of the hub that are classified most.
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABELS = ("label", "labels", "fine_label", "cls", "class", "target")


class Columns(NamedTuple):
    """`image` with its field of `bytes`, "" where the column itself is the bytes; its field `path`, if it has one.

    `label` is None where there is none, `names` those of its classes where the file says them.
    """

    image: str
    bytes: str
    path: str | None
    label: str | None
    names: tuple[str, ...] | None


def features_of(text: bytes | str | None, where: object, *keys: str) -> Mapping[str, Any]:
    """The features in a JSON text, under `keys`; empty where there is no text. Raises UserError for a damaged one."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
        for key in keys:
            found = found.get(key) or {}
        if isinstance(found, dict):
            return found
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: its description of the columns is damaged ({error}); save it again") from error
    raise UserError(f"{where}: its description of the columns is no list of them; save it again")


def columns_of(schema: Any, features: Mapping[str, Any], where: object) -> Columns:
    """The columns of images and labels in a pyarrow schema. Raises UserError where several or none could be meant."""
    import pyarrow as pa

    def kind(name: str) -> Any:
        feature = features.get(name)
        return feature.get("_type") if isinstance(feature, dict) else None

    def binary(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    fields: dict[str, dict[str, Any]] = {}
    for field in schema:
        if binary(field.type) and (kind(field.name) == "Image" or field.name in IMAGES):
            fields[field.name] = {"": field.type}
        elif pa.types.is_struct(field.type):
            inner = {f.name: f.type for f in field.type}
            if "bytes" in inner and (kind(field.name) == "Image" or (not kind(field.name) and "path" in inner)):
                fields[field.name] = inner
    if not fields:
        raise UserError(f"{where}: no column of images among {', '.join(schema.names)}; give a data set of images")
    image = _one(list(fields), IMAGES, "image", where)
    inside = "" if "" in fields[image] else "bytes"
    if not binary(fields[image][inside]):
        raise UserError(f"{where}: {image} holds paths and no images; save the data set with its images embedded")
    labels = [n for n in schema.names if kind(n) == "ClassLabel"] or [n for n in schema.names if n in LABELS]
    label = _one(labels, LABELS, "label", where) if labels else None
    names = features.get(label, {}).get("names") if label and kind(label) == "ClassLabel" else None
    if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise UserError(f"{where}: the classes' names of {label} are no list of texts; save it again")
    path = fields[image].get("path")
    has_path = path is not None and (pa.types.is_string(path) or pa.types.is_large_string(path))
    return Columns(image, inside, "path" if has_path else None, label, None if names is None else tuple(names))


def row_ids(split: str, first: int, paths: Sequence[str | None] | None, count: int, where: object) -> list[str]:
    """Names of rows from number `first` on: `train/0000012/cat.jpg`, or without the file's name where there is none.

    They stay the same when the set is cut into other files.
    """
    names = [posixpath.basename((p or "").replace("\\", "/")) for p in paths] if paths is not None else [""] * count
    require_text(where, names)
    return [f"{split or 'all'}/{first + i:07d}{'/' * bool(name)}{name}" for i, name in enumerate(names)]


def row_of(name: str) -> tuple[str, int]:
    """The split and the row of a name.

    >>> row_of("train/0000012/cat.jpg")
    ('train', 12)
    """
    split, row = name.split("/", 2)[:2]
    return split, int(row)


def _one(found: list[str], known: Sequence[str], what: str, where: object) -> str:
    if len(found) == 1:
        return found[0]
    if chosen := next((name for name in known if name in found), None):
        return chosen
    raise UserError(f"{where}: columns {', '.join(found)} could each be the {what}; call one of them {known[0]}")
