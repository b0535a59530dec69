"""The leaderboard: a pure function of the records, as a table with fixed columns, order and rounding.

Records keep full precision; the only rounding is here, so rebuilding from the same records gives the same bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dinobench.errors import UserError
from dinobench.escaping import csv_cell
from dinobench.files import atomic_path, sweep
from dinobench.results.listing import read_folder
from dinobench.results.records import uncollected
from dinobench.types import RunRecord

COLUMNS = (
    "model", "method", "arch", "protocol", "profile", "dataset", "metric", "value", "ci_low", "ci_high", "n", "seed",
    "weights_digest", "config_hash", "dataset_fingerprint", "run_id", "dinobench_version",
)  # fmt: skip
#: Decimals of scores: a hundredth of a per cent is below the interval of any data set in use.
DECIMALS = 2
_ROUNDED = f"%.{DECIMALS}f"
#: Characters of a digest: enough to tell rows apart, short enough to read.
DIGEST = 12


def _rows(record: RunRecord) -> list[tuple[Any, ...]]:
    """The rows as tuples in the order of COLUMNS: a large board has a hundred thousand of them."""
    names = (
        record.checkpoint.name, record.checkpoint.method, record.checkpoint.arch, record.protocol, record.profile,
        record.dataset,
    )  # fmt: skip
    before = tuple(map(csv_cell, names))
    after = (
        record.seed, record.checkpoint.weights_digest[:DIGEST], record.config_hash[:DIGEST],
        record.dataset_fingerprint[:DIGEST], record.run_id, record.dinobench_version,
    )  # fmt: skip
    return [
        (
            *before, name, _ROUNDED % m.value, "" if m.ci_low is None else _ROUNDED % m.ci_low,
            "" if m.ci_high is None else _ROUNDED % m.ci_high, m.n, *after,
        )
        for name, m in record.metrics.items()
    ]  # fmt: skip


def lines(records: Sequence[RunRecord]) -> list[tuple[Any, ...]]:
    """The rows of the leaderboard: protocols and data sets apart, models by name, metrics in the protocol's order."""
    ordered = sorted(
        records, key=lambda r: (r.protocol, r.dataset, r.profile, r.config_hash, r.checkpoint.name, r.run_id)
    )
    return [row for record in ordered for row in _rows(record)]


def rebuild(results: Path) -> tuple[Path, list[tuple[Path, str]]]:
    """Write `<results>/leaderboard.csv` from the records; returns its path and the broken records left out.

    Raises UserError when the folder cannot be written.
    """
    path, _, broken = build(results)
    return path, broken


@uncollected()
def build(results: Path) -> tuple[Path, list[tuple[Any, ...]], list[tuple[Path, str]]]:
    """As `rebuild`, and the rows that went into it, in between: making a hundred thousand of them twice is felt."""
    path = results / "leaderboard.csv"
    seen = None
    try:
        # Another process may add a record between our reading and our writing, and finish before us: whoever writes
        # last must have seen them all.
        while (now := _state(results)) != seen:
            seen = now
            records, broken = read_folder(results)
            rows = lines(records)
            with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(rows)
        sweep(results)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path, rows, broken


def _state(results: Path) -> list[tuple[str, int, int, int]]:
    """Changes whenever a record does: every one is written under a new inode."""
    states = []
    for file in (results / "runs").glob("*.json"):
        with suppress(OSError):  # gone since, or a link in a circle
            stat = file.stat()
            states.append((file.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return sorted(states)
