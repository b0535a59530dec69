"""The per-item scores of a run, and whether they are those that its record was made from.

The record is what commits a run: it holds the digest of its items' file. The file is written under a name of its own
first and takes the run's name once the record stands, so that a run which is repeated and killed half-way leaves the
old record with the old items or the new with the new, whichever of the three steps it was at.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinobench.errors import UserError
from dinobench.files import LEFT_BEHIND, atomic_path, read_regular, sweep
from dinobench.results.parquet import is_number, read_frame, read_table
from dinobench.types import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: Bytes of a file of items at most: ImageNet's validation set takes 3 MB.
LIMIT = 64 << 20

#: Above any score of an item, and squares of it can still be added.
BEYOND = 1e100


def path_of(results: Path, run_id: str) -> Path:
    """Where the items of a run lie."""
    return results / "items" / f"{run_id}.parquet"


def stage(results: Path, run_id: str, items: pd.DataFrame) -> tuple[Path, str]:
    """Write items under a name that holds their digest: (that path, SHA-256 of the file)."""
    buffer = io.BytesIO()
    items.to_parquet(buffer, index=False)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    staged = results / "items" / _staged_name(run_id, digest)
    with atomic_path(staged) as temporary:
        temporary.write_bytes(content)
    return staged, digest


def settle(results: Path, run_id: str, staged: Path) -> None:
    """Give staged items the run's name, now that its record refers to them; what is left of killed runs goes."""
    with suppress(FileNotFoundError):  # another process that wrote the same was faster
        os.replace(staged, path_of(results, run_id))
    own = re.compile(rf"\.{re.escape(run_id)}\.[0-9a-f]{{16}}\.parquet")  # and none of a run whose name goes on
    for other in staged.parent.glob(".*.parquet"):
        with suppress(OSError):
            age = path_of(results, run_id).stat().st_mtime - other.stat().st_mtime
            if own.fullmatch(other.name) and age > LEFT_BEHIND:
                other.unlink()
    sweep(staged.parent)


def read_items(results: Path, record: RunRecord) -> pd.DataFrame | None:
    """The per-item scores of a run, or None when it kept none or their file is not there.

    Raises UserError when the file is damaged, or does not hold what the record was made from.
    """
    content = _content(results, record)
    if content is None:
        return None
    try:
        items, scores = read_frame(content), read_table(content, list(record.metrics))
    except Exception as error:
        raise _damaged(results, record, error) from error
    if reason := _contradiction(record, scores):
        raise UserError(f"{path_of(results, record.run_id)}: {reason}")
    return items


def labels(results: Path, record: RunRecord) -> pa.ChunkedArray | None:
    """The `label` of each item, or None when the run kept no items. Raises UserError when there are no labels."""
    content = _content(results, record)
    if content is None:
        return None
    try:
        return read_table(content, ["label"])["label"]
    except Exception as error:
        raise _damaged(results, record, error) from error


def contradiction(results: Path, record: RunRecord) -> str | None:
    """What speaks against a record in its own items, or None; reads no more of the file than that takes."""
    try:
        content = _content(results, record)
        if content is None:
            return None
        try:
            items = read_table(content, list(record.metrics))
        except Exception as error:
            raise _damaged(results, record, error) from error
    except (UserError, OSError) as error:
        return str(error)
    return _contradiction(record, items)


def digest_of(results: Path, run_id: str) -> str | None:
    """SHA-256 of the file that a run's items lie in, or None when there is none. Raises OSError."""
    try:
        return hashlib.sha256(read_regular(path_of(results, run_id), LIMIT)).hexdigest()
    except FileNotFoundError:
        return None


def names_of(record: RunRecord) -> tuple[str, ...]:
    """The names that the file of a record's items can have, in the order in which it is looked for."""
    own = f"{record.run_id}.parquet"
    return (own, _staged_name(record.run_id, record.items_sha256)) if record.items_sha256 else (own,)


def _staged_name(run_id: str, digest: str) -> str:
    return f".{run_id}.{digest[:16]}.parquet"


def _content(results: Path, record: RunRecord) -> bytes | None:
    """The bytes of the file that the record refers to. Raises UserError when another lies there."""
    wanted = record.items_sha256
    content = None
    for name in names_of(record):
        with suppress(FileNotFoundError, NotADirectoryError):
            content = read_regular(results / "items" / name, LIMIT)
            if wanted is None or hashlib.sha256(content).hexdigest() == wanted:
                return content
    if content is None:
        return None
    path = path_of(results, record.run_id)
    raise UserError(f"{path}: not the items that the run was scored on (another SHA-256); run it again with --force")


def _damaged(results: Path, record: RunRecord, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{path_of(results, record.run_id)}: damaged ({reason}); run it again with --force")


def _contradiction(record: RunRecord, items: pa.Table) -> str | None:
    import pyarrow as pa

    for name, metric in record.metrics.items():
        if name not in items.column_names:
            continue
        column = items[name]
        if not is_number(column.type) and column.null_count < len(column):
            return f"its items hold no numbers for {name}; run it again with --force"
        values: Any = column.combine_chunks().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values = values[values == values]  # NaN where the item does not count
        if len(values) and abs(values).max() > BEYOND:
            return f"its items hold values beyond any score for {name}; run it again with --force"
        mean = (100 if metric.unit == "%" else 1) * (float(values.mean()) if len(values) else math.nan)
        if not math.isclose(mean, metric.value, rel_tol=1e-6, abs_tol=1e-6):
            return f"{name} is {metric.value:.6g}, the mean of its items {mean:.6g}; run it again with --force"
    return None
