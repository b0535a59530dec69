"""Results as tables of pandas: a row a score, or a row an item."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinobench import console, lazy
from dinobench.errors import UserError, unknown_name
from dinobench.files import user_path
from dinobench.hashing import canonical_json, digest
from dinobench.results.comparability import higher_is_better, key, read_records
from dinobench.results.items import read_items
from dinobench.types import RunRecord

with lazy.imports():
    import pandas as pd

#: Columns of a table of scores.
COLUMNS = (
    "model", "method", "arch", "protocol", "profile", "dataset", "metric", "value", "ci_low", "ci_high", "n", "unit",
    "primary", "higher_is_better", "seed", "precision", "config", "comparable", "weights_digest", "dataset_fingerprint",
    "run_id", "started_at", "duration_s", "device",
)  # fmt: skip
#: Those that each item of a run begins with.
OF_RUN = ("run_id", "model", "protocol", "profile", "dataset", "seed")
#: Hexadecimal digits that tell questions apart.
DIGITS = 12


def read_results(
    results: str | os.PathLike[str] = "results",
    *,
    items: bool = False,
    protocol: str | Sequence[str] = (),
    dataset: str | Sequence[str] = (),
) -> pd.DataFrame:
    """The records of a results folder as a table: a row for every score, at full precision.

    `config` is the settings as JSON; scores whose `comparable` is the same answer one question and may be ranked.
    items: a row for every image, query or object of every run instead, with the columns that its protocol keeps and
    those of `OF_RUN` before them. protocol, dataset: only these.

    What cannot be read is warned of and left out, as are runs that kept no items where these are asked for. Raises
    UserError when the folder holds no records, for a protocol or data set that none is of, and for damaged items.

    `table[table.primary].pivot_table("value", "model", "protocol")` sets models against protocols.
    """
    folder = user_path(results)
    records, broken = read_records(folder)
    for path, reason in broken:
        console.warn(f"{path}: left out: {reason}")
    for field, asked in (("protocol", protocol), ("dataset", dataset)):
        names = [asked] if isinstance(asked, str) else list(asked)
        there = {getattr(r, field) for r in records}
        if unknown := [name for name in names if name not in there]:
            raise unknown_name(f"{field} of {folder}", unknown[0], sorted(there))
        records = [r for r in records if not names or getattr(r, field) in names]
    if items:
        return _items(folder, records)
    rows = [row for record in records for row in _scores(record)]
    return pd.DataFrame(rows, columns=[*COLUMNS])


def _scores(record: RunRecord) -> list[dict[str, Any]]:
    question = key(record)
    common = {
        **_of_run(record), "method": record.checkpoint.method, "arch": record.checkpoint.arch,
        "precision": record.precision, "config": canonical_json(record.config),
        "weights_digest": record.checkpoint.weights_digest, "dataset_fingerprint": record.dataset_fingerprint,
        "started_at": record.started_at, "duration_s": record.duration_s, "device": record.device,
    }  # fmt: skip
    return [
        {
            **common, **vars(measured), "metric": name, "primary": name == record.primary,
            "higher_is_better": higher_is_better(record, name), "comparable": digest(question, name)[:DIGITS],
        }
        for name, measured in record.metrics.items()
    ]  # fmt: skip


def _of_run(record: RunRecord) -> dict[str, Any]:
    return {"model": record.checkpoint.name, **{name: getattr(record, name) for name in OF_RUN if name != "model"}}


def _items(folder: Path, records: Sequence[RunRecord]) -> pd.DataFrame:
    frames, without = [], []
    for record in records:
        frame = read_items(folder, record)
        if frame is None:
            without.append(record.run_id)
            continue
        for place, name in enumerate(OF_RUN):  # a column of the items that is called so is the protocol's own
            frame.insert(place, name if name not in frame else f"run_{name}", _of_run(record)[name])
        frames.append(frame)
    if without:
        console.warn(f"{folder}: {len(without):,} of {len(records):,} runs kept no items, such as {without[0]}")
    if not frames:
        raise UserError(f"{folder}: none of its {len(records):,} runs kept items; run them again with --force")
    return pd.concat(frames, ignore_index=True)
