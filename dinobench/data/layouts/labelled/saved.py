"""Data sets that Hugging Face's `datasets` wrote with `save_to_disk`: Arrow files beside their description.

(Its src/datasets/arrow_dataset.py and dataset_dict.py: a DatasetDict is dataset_dict.json, {"splits": [...]}, and a
folder for each; a Dataset is state.json, which names the data files, dataset_info.json with the features, and those
files, Arrow streams without compression.) The bytes of an image lie as they are in the file, so that they are read from
their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import PackedSplit
from dinobench.data.layouts.labelled import listing
from dinobench.data.layouts.labelled.columns import Columns, columns_of, features_of, row_ids
from dinobench.data.layouts.labelled.listing import Listing
from dinobench.data.layouts.labelled.shards import split_of
from dinobench.errors import UserError
from dinobench.files import open_regular, read_regular
from dinobench.types import ImageClassification, TrainingImages

NAME = "save_to_disk"
SUMMARY = (
    "dataset_dict.json and a folder for each split with state.json, dataset_info.json and data-*.arrow. "
    "What `datasets` writes with `save_to_disk`; the folder of one split alone serves `@split=` and pretraining. "
    "Images must be embedded. `datasets` itself is not needed."
)
DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
#: Bytes of a description at most: 22,000 names of classes take one megabyte.
DESCRIPTION = 64 << 20


def recognises(path: Path) -> bool:
    """A folder with the description of a DatasetDict, or of a Dataset."""
    return (path / DICT).is_file() or (path / STATE).is_file()


def load(path: Path, name: str, progress: Progress | None = None) -> ImageClassification:
    """Raises UserError for damaged or missing files, columns that are not there, and images without a label."""
    return listing.classification(listed(path), name, progress)


def load_images(path: Path, name: str, progress: Progress | None = None) -> TrainingImages:
    """The images of train, with labels where there are some."""
    return listing.training(listed(path), name, progress)


def listed(path: Path) -> Listing:
    """Labels, names and the images' places are read, images are not."""
    folders = {"": ""}
    if (path / DICT).is_file():
        names = _json(path / DICT).get("splits")
        if not isinstance(names, list) or not all(isinstance(n, str) and _plain(n) for n in names):
            raise UserError(f"{path / DICT}: names no splits; save the data set again")
        folders = {split_of(name) or name: f"{name}/" for name in names}
        if len(folders) < len(names):
            raise UserError(f"{path / DICT}: several of its splits could be one ({', '.join(names)}); rename them")
    ids: list[str] = []
    values: list[Any] = []
    places: dict[str, fingerprint.Place] = {}
    parts: dict[str, np.ndarray] = {}
    columns: Columns | None = None
    for split, folder in folders.items():
        start = len(ids)
        for file in _files(path, folder):
            features = features_of(_text(path / folder / INFO), path / folder / INFO, "features")
            columns = _read(path, file, features, columns, split, ids, start, values, places)
        parts[split] = np.arange(start, len(ids))
    if columns is None:
        raise UserError(f"{path}: names no data files; save the data set again")
    labels, classes = listing.numbered(values, columns.names, path)
    whole = PackedSplit("", str(path.absolute()), tuple(ids), labels, "", places)
    return Listing(NAME, path, whole, parts, classes)


def _files(path: Path, folder: str) -> list[str]:
    """The data files of one split, below `path`."""
    state = _json(path / folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(
            f"{path / folder / STATE}: the rows are chosen by an index; save it with flatten_indices() first"
        )
    entries = state.get("_data_files")
    names = [e.get("filename") if isinstance(e, dict) else None for e in entries] if isinstance(entries, list) else []
    if not names or not all(isinstance(n, str) and _plain(n) for n in names):
        raise UserError(f"{path / folder / STATE}: names no data files in this folder; save the data set again")
    if len(set(names)) < len(names):
        raise UserError(f"{path / folder / STATE}: names a data file twice; save the data set again")
    return [f"{folder}{name}" for name in names]


def _plain(name: str) -> bool:
    """Whether a name stays in its folder."""
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\")


def _text(file: Path) -> bytes:
    try:
        return read_regular(file, DESCRIPTION)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}; save the data set again") from error


def _json(file: Path) -> Mapping[str, Any]:
    return features_of(_text(file), file)


def _read(
    path: Path,
    name: str,
    features: Mapping[str, Any],
    expected: Columns | None,
    split: str,
    ids: list[str],
    start: int,
    values: list[Any],
    places: dict[str, fingerprint.Place],
) -> Columns:
    """Append what one file holds to `ids`, `values` of the labels and `places`; the split begins with row `start`."""
    import pyarrow as pa

    file = path / name
    try:
        open_regular(file).close()
        with pa.memory_map(str(file)) as mapped:
            size = mapped.size()
            base = mapped.read_buffer(1).address
            mapped.seek(0)
            with pa.ipc.open_stream(mapped) as stream:
                columns = columns_of(stream.schema, features, file)
                if expected is not None and columns != expected:
                    raise UserError(f"{file}: other columns or classes than the files before it; save the set again")
                for batch in stream:
                    batch.validate()
                    images = batch.column(columns.image)
                    paths = None
                    if columns.bytes:
                        fields = dict(zip([f.name for f in images.type], images.flatten(), strict=True))
                        images, paths = fields[columns.bytes], fields.get(columns.path or "")
                    if paths is not None:
                        paths.validate(full=True)
                        paths = paths.to_pylist()
                    found = row_ids(split, len(ids) - start, paths, batch.num_rows, file)
                    starts, sizes = _ranges(images, base, size)
                    places.update(zip(found, zip([name] * len(found), starts, sizes, strict=True), strict=True))
                    ids += found
                    values += batch.column(columns.label).to_pylist() if columns.label else [None] * batch.num_rows
    except (pa.ArrowException, OSError, ValueError, OverflowError, IndexError, MemoryError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
        raise UserError(f"{file}: no Arrow file that can be read ({reason}); save the data set again") from error
    return columns


def _ranges(images: Any, base: int, size: int) -> tuple[list[int], list[int]]:
    """Where in the file each of an array of byte strings starts, and how long it is; a row without has 0 bytes.

    `base` is the address that the file's `size` bytes are mapped to. Raises ValueError for what lies elsewhere.
    """
    import pyarrow as pa

    _, offsets, data = images.buffers()
    kind = np.int64 if pa.types.is_large_binary(images.type) else np.int32
    at = np.frombuffer(offsets, kind)[images.offset : images.offset + len(images) + 1].astype(np.int64)
    if not len(images):
        return [], []
    held = 0 if data is None else data.size
    if len(at) != len(images) + 1 or at[0] < 0 or at[-1] > held or (np.diff(at) < 0).any():
        raise ValueError("images that overlap or end behind the file")
    first = 0 if data is None else data.address - base
    if not 0 <= first <= first + held <= size:
        raise ValueError("compressed, or not in one piece")
    sizes = np.where(np.asarray(images.is_null()), 0, np.diff(at))
    return (first + at[:-1]).tolist(), sizes.tolist()
