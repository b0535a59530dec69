"""Files of per-item scores as anybody may have left them: what they claim is checked before it is decoded.

A column of a few bytes can stand for gigabytes, and Arrow decodes text without looking whether it is text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: Rows of a file at most: ImageNet's training set has 1.3 million images.
ROWS = 2_000_000
#: Values at most, in all columns: ImageNet's validation set with all k of a protocol has half a million.
VALUES = 20_000_000
#: Bytes of a file's text at most, written out.
TEXT = 256 << 20
#: What tells items apart, and groups those that resemble each other: each item has one, text or a whole number.
NAMES = ("id", "video", "query", "original")
#: Rows that are decoded at a time.
BATCH = 1 << 16


def read_table(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a Parquet file, all columns or those of `columns` that it has; columns of text as dictionaries.

    Raises ValueError, or what Arrow raises, when the file is damaged, larger than any of ours when written out, or
    holds anything but columns of numbers, truth values and text, each under a name of its own.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = parquet.read_schema(pa.BufferReader(content))
    text = [field.name for field in schema if _is_text(field.type)]
    file = parquet.ParquetFile(pa.BufferReader(content), read_dictionary=text)
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("two columns have one name")
    for field in schema:
        if not (_is_text(field.type) or is_number(field.type) or pa.types.is_null(field.type)):
            raise ValueError(f"column {field.name} is neither numbers nor text but {field.type}")
    wanted = schema.names if columns is None else [name for name in columns if name in schema.names]
    # Batch by batch, because the counts in the file's head need not be true; nor is more of that read than must be:
    # Arrow ends the process over some that do not fit together.
    batches = []
    rows = text_bytes = 0
    for batch in file.iter_batches(BATCH, columns=wanted, use_threads=False):
        batch.validate(full=True)
        batches.append(batch)
        rows += len(batch)
        text_bytes += sum(_text_bytes(batch[name]) for name in wanted if name in text)
        if rows > ROWS or rows * len(wanted) > VALUES or text_bytes > TEXT:
            raise ValueError("more rows or more text than any items have")
    return pa.Table.from_batches(batches, batches[0].schema if batches else file.schema_arrow)


def read_frame(content: bytes) -> pd.DataFrame:
    """The whole file as pandas wrote it. Raises as `read_table` does, and what pandas raises."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = read_table(content)
    # As pandas.read_parquet does, but in this thread: Arrow's others may still be at it when the process ends.
    whole = parquet.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    frame: pd.DataFrame = whole.to_pandas(use_threads=False)
    frame.attrs = json.loads((whole.schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
    if list(frame.columns) != table.column_names:
        raise ValueError("its columns are not those that its schema names")
    cluster = frame.attrs.get("cluster")
    if cluster not in (None, *table.column_names):
        raise ValueError("its items are clustered by a column that it lacks")
    for name in table.column_names:
        kind, lacking = table.schema.field(name).type, table[name].null_count > 0
        if name in (*NAMES, cluster):
            if lacking or not (_is_text(kind) or pa.types.is_integer(kind)):
                raise ValueError(f"not every item has a {name}")
        elif lacking and not is_number(kind):
            raise ValueError(f"not every item has a {name}")
    return frame


def is_number(kind: pa.DataType) -> bool:
    """Whether values of the type can be averaged: numbers and truth values."""
    import pyarrow as pa

    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(values) or pa.types.is_large_string(values))


def _text_bytes(column: pa.Array) -> int:
    """Bytes of a column when each row has its own text."""
    import pyarrow as pa
    import pyarrow.compute as compute

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = compute.binary_length(column.dictionary).cast(pa.int64())
    return compute.sum(lengths.take(column.indices)).as_py() or 0
