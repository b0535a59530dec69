"""How a suite stands: from its records, the failures and the files of those who run it; no process is asked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from dinobench.errors import UserError
from dinobench.results import records
from dinobench.suite.cells import Cell, Plan, State
from dinobench.suite.file import Compute, Suite
from dinobench.suite.plan import plan
from dinobench.suite.slurm import queue
from dinobench.suite.work import failures, running
from dinobench.suite.work.failures import Kind
from dinobench.suite.work.folders import Folders
from dinobench.suite.work.running import Report
from dinobench.types import RunRecord


class Now(StrEnum):
    """Where a cell stands while its suite may be running."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    FAILED = "failed"
    MISSING = "input missing"
    NOT_APPLICABLE = "not applicable"


#: What ended, or will not begin by itself.
SETTLED = (Now.DONE, Now.FAILED, Now.MISSING, Now.NOT_APPLICABLE)
_NOW = {
    State.DONE: Now.DONE, State.CACHED: Now.QUEUED, State.TODO: Now.QUEUED, State.FAILED: Now.FAILED,
    State.MISSING: Now.MISSING, State.NOT_APPLICABLE: Now.NOT_APPLICABLE,
}  # fmt: skip


@dataclass
class Standing:
    """A cell as it stands. `share` is how far the step is that a running one is at, from 0 to 1, as far as it says.

    `host` is where a running one runs, of one that waits in SLURM's queue its job.

    `score` is of the primary metric, in its unit; `seconds` what a record says it took, else what it may take.
    """

    cell: Cell
    now: Now
    reason: str = ""
    share: float | None = None
    what: str = ""
    host: str = ""
    seconds: float | None = None
    metric: str = ""
    unit: str = ""
    score: float | None = None
    lower_is_better: bool = False
    kind: str = ""  # of its failure


@dataclass
class Status:
    """The cells of a suite, in the order of its file, and the seconds of trainings that they wait for, by model."""

    suite: Suite
    cells: list[Standing]
    processes: int = 0
    trainings: Mapping[str, float | None] = field(default_factory=dict)
    by_key: dict[str, Standing] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.by_key = {standing.cell.key: standing for standing in self.cells}

    def count(self) -> dict[Now, int]:
        """Cells by where they stand, all of them."""
        return {now: sum(s.now is now for s in self.cells) for now in Now}

    @cached_property
    def rows(self) -> dict[tuple[str, ...], list[Standing]]:
        """The cells by protocol, profile, data, test images and precision: what can be compared is together."""
        rows: dict[tuple[str, ...], list[Standing]] = {}
        for standing in self.cells:
            cell = standing.cell
            tests = [test.partition("=")[0] for test in cell.tests]
            precision = [] if cell.compute.precision == Compute.precision else [cell.compute.precision]
            rows.setdefault((cell.protocol, cell.label, cell.dataset, *tests, *precision), []).append(standing)
        return rows

    def seconds_left(self) -> float | None:
        """Until all is done, by as many processes as there are; None where nothing tells of one of the cells.

        A cell takes what the plan says, else the median of what those in its row took.
        """
        total = 0.0
        for model, needed in self.trainings.items():
            if any(s.now is Now.DONE and s.cell.model == model for s in self.cells):
                continue  # so that it has ended
            if needed is None:
                return None
            total += needed
        for row in self.rows.values():
            left = [s.seconds for s in row if s.now not in SETTLED]
            total += sum(seconds for seconds in left if seconds is not None)
            if unknown := left.count(None):
                taken = [s.seconds for s in row if s.now is Now.DONE and s.seconds is not None]
                if not taken:
                    return None
                total += unknown * median(taken)
        return total / max(1, self.processes)

    def best(self, row: Sequence[Standing]) -> Standing | None:
        """The best of a row so far, by the primary metric."""
        scored = [(-s.score if s.lower_is_better else s.score, s) for s in row if s.score is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take in an event of `run_task`."""
        standing = self.by_key.get(event.get("cell", ""))
        if standing is None:
            return
        kind = event["event"]
        if kind == "begun":
            standing.now, standing.share, standing.what, standing.reason = Now.RUNNING, None, "", ""
        elif kind == "progress":
            total = event["total"]
            standing.what, standing.share = event["what"], min(1.0, event["done"] / total) if total else None
        elif kind == "done":
            standing.now, standing.seconds = Now.DONE, event["seconds"]
            runs = self.suite.out / "runs"
            self.scored(standing, (records.read_file(runs / f"{run_id}.json") for run_id in event["runs"][:1]))
        elif kind == "not applicable":
            standing.now, standing.reason = Now.NOT_APPLICABLE, event["message"]
        elif kind == "failed":
            standing.now = Now.QUEUED if event["again"] else Now.FAILED
            standing.kind, standing.reason = event["kind"], event["message"]

    def scored(self, standing: Standing, found: Iterable[RunRecord]) -> None:
        """Take in what a cell's record says; of several the first, as they are of different images."""
        for record in found:
            value = record.metrics[record.primary]
            standing.metric, standing.unit, standing.score = record.primary, value.unit, value.value
            standing.lower_is_better = record.primary in record.lower_is_better
            break


def status(suite: Suite) -> Status:
    """How a suite stands now."""
    return of_plan(plan(suite))


def of_plan(planned: Plan) -> Status:
    """The same where the plan has just been made."""
    suite = planned.suite
    folders = Folders(Path(suite.out), suite.name)
    cells = [Standing(cell, _NOW[cell.state], cell.reason, seconds=cell.seconds) for cell in planned.cells]
    found = Status(suite, cells, trainings={t.training.name: t.seconds for t in planned.pending_trainings})
    for standing in cells:
        if standing.now is Now.DONE:
            ids = standing.cell.run_ids[:1]
            found.scored(standing, filter(None, (records.read(suite.out, run_id) for run_id in ids)))
        elif standing.now in (Now.FAILED, Now.QUEUED):
            failed = failures.read(folders.failed(standing.cell.key))
            if failed is not None and failed.kind in (Kind.INPUT, Kind.FAULT, Kind.MEMORY):
                standing.kind, standing.reason = failed.kind, failed.message
                standing.now = Now.FAILED if failed.kind is Kind.INPUT else standing.now
    for report in reports(folders):
        found.processes += 1
        if report.cell in found.by_key and found.by_key[report.cell].now not in (Now.DONE, Now.NOT_APPLICABLE):
            standing = found.by_key[report.cell]
            standing.now, standing.share, standing.what = Now.RUNNING, report.share, report.what
            standing.host = report.host + (f" (job {report.job})" if report.job else "")
    with contextlib.suppress(UserError):  # where SLURM is out of reach, the files must do
        for key, job in queue.queued(folders.root).items():
            if key in found.by_key and (standing := found.by_key[key]).now is Now.QUEUED:
                standing.host = f"job {job.id} ({job.state.lower()}: {job.where})"
    return found


def reports(folders: Folders) -> list[Report]:
    """What the processes say that run groups of the suite now, on whichever machine that sees its folder."""
    files = sorted((folders.root / "running").glob("*.json"))
    return [report for file in files if not file.name.startswith(".") and (report := running.read(file)) is not None]


def to_json(found: Status) -> str:
    """For programs: counts, time left, and every cell."""
    cells = []
    for s in found.cells:
        asked = {name: getattr(s.cell, name) for name in ("key", "protocol", "label", "model", "data", "seed")}
        told = {f.name: getattr(s, f.name) for f in dataclasses.fields(s) if f.name != "cell"}
        cells.append({**asked, "tests": list(s.cell.tests), "runs": list(s.cell.run_ids), **told})
    left = found.seconds_left()
    whole = {
        "suite": found.suite.name, "results": str(found.suite.out), "count": found.count(),
        "processes": found.processes, "seconds_left": None if left is None else round(left, 1), "cells": cells,
    }  # fmt: skip
    return json.dumps(whole, indent=2, ensure_ascii=False)
