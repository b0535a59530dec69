"""The folder `results/`: records, per-item scores, provenance and the leaderboard, written and read."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["differences", "read_file", "read_results", "reasons", "rebuild", "write"]

__getattr__ = attach(
    __name__,
    {
        "read_results": "comparability",
        "differences": "comparability",
        "reasons": "comparability",
        "rebuild": "leaderboard",
        "read_file": "records",
        "write": "records",
    },
)
