"""The leaderboard: a pure function of the records, as a table with fixed columns, order and rounding.

Records keep full precision; the only rounding is here, so rebuilding from the same records gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinobench.records import atomic_path, read_all
from dinobench.types import RunRecord, UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model", "method", "arch", "protocol", "profile", "dataset", "metric", "value", "ci_low", "ci_high", "n", "seed",
    "weights_digest", "config_hash", "dataset_fingerprint", "run_id", "dinobench_version",
)  # fmt: skip
#: Decimals of scores: a hundredth of a per cent is below the interval of any data set in use.
DECIMALS = 2
#: Characters of a digest: enough to tell rows apart, short enough to read.
DIGEST = 12


def rows(record: RunRecord) -> list[dict[str, Any]]:
    """One row a metric, values rounded and digests shortened for reading."""
    common = {
        "model": record.checkpoint.name,
        "method": record.checkpoint.method,
        "arch": record.checkpoint.arch,
        "protocol": record.protocol,
        "profile": record.profile,
        "dataset": record.dataset,
        "seed": record.seed,
        "weights_digest": record.checkpoint.weights_digest[:DIGEST],
        "config_hash": record.config_hash[:DIGEST],
        "dataset_fingerprint": record.dataset_fingerprint[:DIGEST],
        "run_id": record.run_id,
        "dinobench_version": record.dinobench_version,
    }
    return [
        {
            **common,
            "metric": name,
            "value": _rounded(m.value),
            "ci_low": _rounded(m.ci_low),
            "ci_high": _rounded(m.ci_high),
            "n": m.n,
        }
        for name, m in record.metrics.items()
    ]


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.{DECIMALS}f}"


def table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The leaderboard of `records`: protocols and data sets apart, models by name, metrics in the protocol's order."""
    import pandas as pd

    ordered = sorted(
        records, key=lambda r: (r.protocol, r.dataset, r.profile, r.config_hash, r.checkpoint.name, r.run_id)
    )
    return pd.DataFrame([row for record in ordered for row in rows(record)], columns=list(COLUMNS))


def rebuild(results: Path) -> tuple[Path, list[tuple[Path, str]]]:
    """Write `<results>/leaderboard.csv` from the records; returns its path and the broken records left out.

    Raises UserError when the folder cannot be written.
    """
    path = results / "leaderboard.csv"
    seen = None
    try:
        # Another process may add a record between our reading and our writing, and finish before us: whoever writes
        # last must have seen them all.
        while (now := _state(results)) != seen:
            seen = now
            records, broken = read_all(results)
            with atomic_path(path) as temporary:
                table(records).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path, broken


def _state(results: Path) -> list[tuple[str, int, int, int]]:
    """Changes whenever a record does: every one is written under a new inode."""
    found = []
    for file in (results / "runs").glob("*.json"):
        with suppress(FileNotFoundError):
            stat = file.stat()
            found.append((file.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return sorted(found)
