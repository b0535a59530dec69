"""Suites of cells that cost next to nothing, and what their records must be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dinobench import runner
from dinobench.suite.cells import Plan
from dinobench.suite.file import read
from dinobench.suite.plan import plan

#: Of a record, what no two runs of one cell share.
OF_THE_RUN = ("started_at", "duration_s", "peak_memory_mb")
#: A protocol that computes nothing: it waits until it was stopped `stops` times, and keeps how often it was.
PATIENT = """
import time
from dataclasses import dataclass
import pandas as pd
from dinobench.signals import StopRequest
from dinobench.types import Metric, Result, setting

@dataclass(frozen=True)
class Config:
    stops: int = setting(1, "a number")

name, version, summary, data = "patient", 1, "all is right, in time", "classification"
requires, profiles = frozenset({"features"}), {"default": Config()}

def metrics(config):
    return (Metric("top1", primary=True),)

def run(backbone, data, config, ctx):
    state, stop = ctx.scratch / "stops", StopRequest()
    stops = int(state.read_text()) if state.exists() else 0
    with stop.listening():
        print(f"begins after {stops}", flush=True)
        while stops < config.stops:
            time.sleep(0.1)
            if stop.asked:
                state.parent.mkdir(parents=True, exist_ok=True)
                state.write_text(str(stops + 1))
                raise stop.interrupted()
    ids = list(data.test.ids)
    return Result({"top1": 100.0}, pd.DataFrame({"id": ids, "top1": [1.0] * len(ids)}))
"""


def planned(text: str) -> Plan:
    """The plan, as things stand, of a suite with this text, which is written to `small.toml` here."""
    Path("small.toml").write_text(text)
    return plan(read("small.toml"))


def in_one_process(wanted: Plan, out: Path) -> dict[str, Any]:
    """What the records of a plan's cells are where this process runs them one after the other."""
    for cell in wanted.cells:
        runner.run(
            cell.protocol, cell.ckpt, cell.data, profile=cell.profile, settings=cell.settings, seed=cell.seed, out=out
        )
    return results(out)


def results(out: Path) -> dict[str, Any]:
    """All records by name, but for what is of the run, and the digests of the files of their items."""
    found: dict[str, Any] = {}
    for path in sorted((out / "runs").glob("*.json")):
        record = json.loads(path.read_text())
        items = (out / "items" / f"{path.stem}.parquet").read_bytes()
        kept = {key: value for key, value in record.items() if key not in OF_THE_RUN}
        found[path.stem] = json.dumps(kept), hashlib.sha256(items).hexdigest()
    return found
