"""Records that differ in what a table of scores shows."""

from __future__ import annotations

import dataclasses

from helpers.samples import INFO, record

from dinobench.types import MetricValue, RunRecord


def run(model: str = "m", value: float = 50.0, *, weights: str = "", n: int = 100, metric: str = "top1@k20",
        half: float | None = None, unit: str = "%", **changes: object) -> RunRecord:  # fmt: skip
    info = dataclasses.replace(INFO, name=model, weights_digest=(weights or model.encode().hex()).ljust(64, "0")[:64])
    interval = (None, None) if half is None else (value - half, value + half)
    fields = {"checkpoint": info, "metrics": {metric: MetricValue(value, *interval, n, unit)}, "primary": metric}
    fields.update(changes)
    run_id = "-".join([model, *(str(v)[:12] for v in changes.values()), str(value)])
    return record(run_id, **fields)
