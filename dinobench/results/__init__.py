"""The folder `results/`: records, per-item scores, provenance and the leaderboard, written and read."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["differences", "read_file", "read_results", "reasons", "rebuild", "record_schema", "write"]

__getattr__ = attach(
    __name__,
    {
        "read_results": "frames",
        "differences": "comparability",
        "reasons": "comparability",
        "rebuild": "leaderboard",
        "read_file": "records",
        "record_schema": "schema",
        "write": "records",
    },
)
