"""Tables that may lie where items are expected: odd types, names, sizes and metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet


def write_all(folder: Path, metric: str, n: int = 40) -> list[Path]:
    """One file for each oddity; all have n rows where nothing else is said."""
    ids = pa.array([f"{i:05d}" for i in range(n)])
    right = pa.array(np.arange(n) % 3 > 0)
    other: dict[str, pa.Array] = {
        "lists": pa.array([[1.0]] * n), "empty lists": pa.array([[]] * n, pa.list_(pa.float64())),
        "strings": pa.array(["1.5"] * n), "words": pa.array(["high"] * n), "nulls": pa.nulls(n),
        "no type but null": pa.array([None] * n, pa.float64()), "structs": pa.array([{"a": 1}] * n),
        "bytes": pa.array([b"\xff\xfe"] * n), "dates": pa.array([0] * n, pa.timestamp("s")),
        "decimals": pa.array([10**30] * n, pa.decimal128(38)),
        "maps": pa.array([[("a", 1)]] * n, pa.map_("string", "int8")),
        "big": pa.array([2**63 - 1] * n), "huge": pa.array([1e308] * n), "infinite": pa.array([float("inf")] * n),
        "some null": pa.array([None, True] * (n // 2)), "half": pa.array(np.ones(n, np.float16)),
        "dictionary": pa.array(["a", "b"] * (n // 2)).dictionary_encode(),
        "durations": pa.array([1] * n, pa.duration("s")),
        "long text": pa.array(["x" * 1_000_000] * n), "unsigned": pa.array([2**64 - 1] * n, pa.uint64()),
    }  # fmt: skip
    tables: dict[str, Any] = {}
    for name, column in other.items():
        tables[f"metric of {name}"] = pa.table({"id": ids, metric: column})
        tables[f"id of {name}"] = pa.table({"id": column, metric: right})
        tables[f"label of {name}"] = pa.table({"id": ids, metric: right, "label": column, "video": column})
    tables["metric twice"] = pa.Table.from_arrays([ids, right, right], ["id", metric, metric])
    tables["ids twice"] = pa.Table.from_arrays([ids, ids, right], ["id", "id", metric])
    tables["one id"] = pa.table({"id": pa.array(["a"] * n), metric: right})
    tables["no rows"] = pa.table({"id": ids[:0], metric: right[:0]})
    tables["fewer rows"] = pa.table({"id": ids[:9], metric: right[:9]})
    tables["no columns"] = pa.table({})
    tables["no id"] = pa.table({metric: right})
    tables["no metric"] = pa.table({"id": ids})
    tables["many columns"] = pa.table({f"c{i}": ids for i in range(300)})
    whole = pa.table({"id": ids, metric: right})
    for name, attrs in {
        "cluster": {"cluster": ["id"]}, "cluster gone": {"cluster": "nowhere"}, "attrs": [1], "null": None, "x": "x",
    }.items():  # fmt: skip
        about = {"attributes": attrs, "index_columns": [], "columns": [], "column_indexes": []}
        kept = {"pandas": json.dumps({**about, "attributes": {}}), "PANDAS_ATTRS": json.dumps(attrs)}
        tables[f"attrs {name}"] = whole.replace_schema_metadata(kept)
        tables[f"attributes {name}"] = whole.replace_schema_metadata({"pandas": json.dumps(about)})
    for name, text in {
        "deep": "[" * 100_000,
        "binary": b"\xff",
        "none": "",
        "digits": '{"cluster": 1' + "0" * 5000 + "}",
    }.items():
        tables[f"attrs {name}"] = whole.replace_schema_metadata({"PANDAS_ATTRS": text})
    tables["metadata no JSON"] = whole.replace_schema_metadata({"pandas": "{"})
    tables["metadata deep"] = whole.replace_schema_metadata({"pandas": "[" * 100_000})
    tables["metadata binary"] = whole.replace_schema_metadata({"pandas": b"\xff\xfe"})
    for index in (["id"], [{"kind": "range", "start": 0, "stop": 10**12, "step": 1, "name": None}], 3):
        about = {"index_columns": index, "columns": [], "column_indexes": []}
        tables[f"index {index!s:.20}"] = whole.replace_schema_metadata({"pandas": json.dumps(about)})
    kinds = {"columns": [{"name": "id", "field_name": "id", "pandas_type": "object", "numpy_type": "x", "metadata": 3}]}
    tables["kinds"] = whole.replace_schema_metadata(
        {"pandas": json.dumps({**kinds, "index_columns": [], "column_indexes": [{"name": None, "numpy_type": "?"}]})}
    )
    paths = []
    for i, (name, table) in enumerate(tables.items()):
        paths.append(folder / f"{i:03d} {name.replace('/', ' ')[:60]}.parquet")
        parquet.write_table(table, paths[-1])
    return paths


def bombs(folder: Path, metric: str) -> list[Path]:
    """Files of kilobytes that stand for gigabytes."""
    paths = [folder / f"bomb {i}.parquet" for i in range(3)]
    ones = pa.array(np.ones(100_000_000, bool))
    parquet.write_table(pa.table({metric: ones}), paths[0], compression="zstd")
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["x" * 1_000_000]))
    parquet.write_table(pa.table({"id": text, metric: pa.array(np.ones(1_000_000))}), paths[1])
    wide = pa.table({f"c{i}": pa.nulls(1_900_000, pa.int8()) for i in range(60)})
    parquet.write_table(wide, paths[2])
    return paths
