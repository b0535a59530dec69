"""What processes started by tests write: here, because they import what they run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from helpers.samples import record

from dinobench.results import leaderboard, records
from dinobench.types import MetricValue


def write_and_rebuild(folder: str, number: int) -> None:
    """What the end of every run does."""
    metrics = {"top1@k20": MetricValue(float(number), None, None, 1, "%")}
    records.write(Path(folder), record(f"run-{number}", metrics=metrics), None)
    leaderboard.rebuild(Path(folder))


def write_twice(folder: str, number: int) -> None:
    items = pd.DataFrame({"id": [str(number)], "right": [1.0]})
    records.write(Path(folder), record(f"run-{number}"), items)
    records.write(Path(folder), record("same", seed=number), items)
