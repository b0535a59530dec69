"""Records that differ in what is there to explain."""

from __future__ import annotations

import dataclasses
import json

from helpers.samples import INFO, record

from dinobench.types import MetricValue, RunRecord

CONFIG = {"k": [20], "temperature": 0.07, "weighting": "exp", "n_per_class": 0, "tries": 1, "resize": 256, "crop": 224,
          "interpolation": "bicubic"}  # fmt: skip


def run(run_id: str = "a", value: float = 50.0, config: dict | None = None, **changes: object) -> RunRecord:
    info = {k.partition(".")[2]: changes.pop(k) for k in [*changes] if k.startswith("checkpoint.")}
    config = {**CONFIG, **(config or {})}
    fields = {"config": config, "config_hash": f"{abs(hash(json.dumps(config))):x}".ljust(64, "0"),
              "metrics": {"top1@k20": MetricValue(value, None, None, 4, "%")},
              "checkpoint": dataclasses.replace(INFO, **info), **changes}  # fmt: skip
    return record(run_id, **fields)
