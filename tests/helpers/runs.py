"""Runs written to a results folder, with items as protocols keep them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from helpers.samples import INFO, record

from dinobench.results import records
from dinobench.types import MetricValue, RunRecord


def run(
    folder: Path, model: str, right: Any, *, run_id: str | None = None, metric: str = "top1@k20", unit: str = "%",
    columns: Any = None, ids: Any = None, **changes: Any,
) -> RunRecord:  # fmt: skip
    """A record in `folder` with one item per score of `right`."""
    values = np.asarray(right)
    frame = pd.DataFrame({"id": ids if ids is not None else [f"{i:05d}" for i in range(len(values))], metric: values})
    for name, column in (columns or {}).items():
        frame[name] = column
    scale = 100 if unit == "%" else 1
    made = record(
        run_id or f"knn-{model}-digits",
        checkpoint=changes.pop("checkpoint", dataclasses.replace(INFO, name=model, weights_digest=(model * 64)[:64])),
        metrics={metric: MetricValue(scale * float(np.nanmean(values.astype(float))), 0.0, 100.0, len(values), unit)},
        primary=metric,
        **changes,
    )
    records.write(folder, made, frame)
    return made
