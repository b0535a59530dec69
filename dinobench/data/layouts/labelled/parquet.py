"""Image data sets as Parquet files: what the hub of Hugging Face holds, as downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dinobench.data.fingerprint import Progress
from dinobench.data.layouts.labelled import listing, shards
from dinobench.data.layouts.labelled.columns import Columns, columns_of, features_of, row_ids
from dinobench.data.layouts.labelled.listing import Listing
from dinobench.data.layouts.labelled.row_groups import LARGEST, Group, GroupPlaces, ParquetSplit
from dinobench.errors import UserError
from dinobench.files import open_regular
from dinobench.types import ImageClassification, TrainingImages

NAME = "parquet"
SUMMARY = (
    "train-00000-of-00004.parquet, … and validation-*.parquet or test-*.parquet with columns of images and labels. "
    "As Hugging Face's hub holds them, in the folder, in data/ or in one folder of a configuration; the splits' names "
    "may be the folders' too. The image is a struct of bytes and path, or bytes; the classes' names are those of the "
    "ClassLabel. Read by row groups as needed; in a training that shuffles, class folders are faster."
)
ENDING = ".parquet"


def recognises(path: Path) -> bool:
    """A Parquet file, or a folder that holds some."""
    return shards.any_in(path, ENDING)


def default_name(path: Path) -> str:
    """The file's name without its ending, or the folder's; the folder above where it is called data."""
    found = path.resolve()
    return found.stem if path.is_file() else found.parent.name if found.name == "data" else found.name


def load(path: Path, name: str, progress: Progress | None = None) -> ImageClassification:
    """Raises UserError for damaged or missing files, columns that are not there, and images without a label."""
    return listing.classification(listed(path), name, progress)


def load_images(path: Path, name: str, progress: Progress | None = None) -> TrainingImages:
    """The images of train, with labels where there are some."""
    return listing.training(listed(path), name, progress)


def listed(path: Path) -> Listing:
    """Labels and names are read, images are not."""
    root = path.parent if path.is_file() else path
    splits = shards.by_split(path, shards.find(path, ENDING))
    ids: list[str] = []
    values: list[Any] = []
    parts: dict[str, np.ndarray] = {}
    groups: dict[str, tuple[Group, ...]] = {}
    columns: Columns | None = None
    for split, files in splits.items():
        start, found = len(ids), list[Group]()
        for file in files:
            columns = _read(root / file, file, columns, split, ids, start, values, found)
        parts[split] = np.arange(start, len(ids))
        groups[split or "all"] = tuple(found)
    assert columns is not None
    labels, classes = listing.numbered(values, columns.names, path)
    whole = ParquetSplit(
        "", str(root.absolute()), tuple(ids), labels, "", GroupPlaces(groups), columns.image, columns.bytes
    )
    count = sum(map(len, splits.values()))
    return Listing(f"{NAME}, {count} file{'s' * (count > 1)}", path, whole, parts, classes)


def _read(
    file: Path,
    name: str,
    expected: Columns | None,
    split: str,
    ids: list[str],
    start: int,
    values: list[Any],
    groups: list[Group],
) -> Columns:
    """Append what one file holds to `ids`, `values` of the labels and `groups`; the split begins with row `start`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_regular(file) as opened:
            table = pq.ParquetFile(opened)
            schema = table.schema_arrow
            columns = columns_of(
                schema, features_of((schema.metadata or {}).get(b"huggingface"), file, "info", "features"), file
            )
            if expected is not None and columns != expected:
                raise UserError(f"{file}: other columns or classes than the files before it; download the set again")
            first = len(ids) - start
            for number in range(table.num_row_groups):
                group = table.metadata.row_group(number)
                groups.append(Group(name, number, first))
                first += group.num_rows
                if group.total_byte_size > LARGEST:
                    raise UserError(
                        f"{file}: a row group of {group.total_byte_size:,} bytes; write it with smaller ones"
                    )
            wanted = [f"{columns.image}.{columns.path}"] if columns.path else []
            wanted += [columns.label] if columns.label else []
            if not wanted:
                ids += row_ids(split, len(ids) - start, None, table.metadata.num_rows, file)
                values += [None] * table.metadata.num_rows
                return columns
            for batch in table.iter_batches(8192, columns=wanted, use_threads=False):
                paths = batch.column(columns.image).flatten()[0].to_pylist() if columns.path else None
                ids += row_ids(split, len(ids) - start, paths, batch.num_rows, file)
                values += batch.column(columns.label).to_pylist() if columns.label else [None] * batch.num_rows
            if len(ids) - start != first:
                raise UserError(f"{file}: has other rows than its description says; download it again")
    except (pa.ArrowException, OSError, ValueError, OverflowError, IndexError, MemoryError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
        raise UserError(f"{file}: no Parquet file that can be read ({reason}); download it again") from error
    return columns
