"""How a suite stands is told from plan, records, failures and reports, and follows the events of its processes."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from pathlib import Path

import pytest
from helpers.samples import record

from dinobench.results import records
from dinobench.suite.cells import Cell, Plan, State
from dinobench.suite.file import Compute, Suite
from dinobench.suite.work import failures
from dinobench.suite.work.again import of_failed
from dinobench.suite.work.failures import Failure, Kind
from dinobench.suite.work.running import Report
from dinobench.suite.work.status import Now, of_plan, to_json
from dinobench.types import MetricValue


def cell(key, model="a", protocol="knn", **changes):
    fields = {"profile": None, "settings": {}, "seed": 0, "reference": f"{model}.pth", "data": "digits", "tests": (),
              "limit": None, "label": "dino2021"}  # fmt: skip
    return Cell(key, protocol, model=model, **{**fields, **changes})


def planned(out: Path, *cells: Cell) -> Plan:
    suite = Suite("paper", None, {}, {}, (), out=out)
    return Plan(suite, cells, ())


def scored(out: Path, run_id: str, value: float, **changes):
    metrics = {"top1@k20": MetricValue(value, None, None, 9, "%")}
    records.write(out, record(run_id, metrics=metrics, **changes), None)


def test_records_and_states_of_the_plan(tmp_path):
    scored(tmp_path, "r1", 70.0)
    scored(tmp_path, "r2", 80.0)
    states = [
        cell("1", "a", state=State.DONE, run_ids=("r1",), seconds=4.0),
        cell("2", "b", state=State.DONE, run_ids=("r2",), seconds=8.0),
        cell("3", "c", state=State.CACHED),
        cell("4", "d", state=State.MISSING, reason="no file"),
        cell("5", "e", state=State.NOT_APPLICABLE),
    ]
    now = of_plan(planned(tmp_path, *states))
    assert now.count() == {Now.DONE: 2, Now.RUNNING: 0, Now.QUEUED: 1, Now.FAILED: 0, Now.MISSING: 1,
                           Now.NOT_APPLICABLE: 1}  # fmt: skip
    (row,) = now.rows.values()
    assert now.best(row).cell.model == "b" and now.seconds_left() == 6.0


def test_other_precisions_are_rows_of_their_own(tmp_path):
    states = [cell("1", "a"), cell("2", "b", compute=Compute(precision="bf16", workers=2)), cell("3", "b")]
    rows = of_plan(planned(tmp_path, *states)).rows
    assert [(key[2:], len(row)) for key, row in rows.items()] == [(("digits",), 2), (("digits", "bf16"), 1)]


def test_the_best_may_be_the_least(tmp_path):
    for key, value in (("1", 3.0), ("2", 2.0)):
        scored(tmp_path, f"r{key}", value, lower_is_better=("top1@k20",))
    both = [cell(key, key, state=State.DONE, run_ids=(f"r{key}",)) for key in "12"]
    now = of_plan(planned(tmp_path, *both))
    assert now.best(now.cells).cell.model == "2"


def test_unknown_durations_are_not_made_up(tmp_path):
    assert of_plan(planned(tmp_path, cell("1", seconds=5.0), cell("2", "b"))).seconds_left() is None
    assert of_plan(planned(tmp_path, cell("1", seconds=5.0), cell("2", "b", seconds=7.0))).seconds_left() == 12.0


def test_who_runs_what_is_read_from_their_files(tmp_path):
    running = tmp_path / "suites" / "paper" / "running"
    running.mkdir(parents=True)
    report = Report(
        "g", os.getpid(), socket.gethostname(), "7_1", "1", heartbeat=time.time(), what="x", done=1, total=4
    )
    (running / "g.json").write_text(json.dumps(dataclasses.asdict(report)))
    (running / "g.lock").write_text("")
    now = of_plan(planned(tmp_path, cell("1"), cell("2")))
    assert now.processes == 1 and now.cells[0].now is Now.RUNNING and now.cells[0].share == 0.25
    assert now.cells[0].host.endswith("(job 7_1)") and now.cells[1].now is Now.QUEUED


@pytest.mark.parametrize(("kind", "state", "now"), [
    (Kind.INPUT, State.TODO, Now.FAILED), (Kind.FAULT, State.TODO, Now.QUEUED), (Kind.FAULT, State.FAILED, Now.FAILED),
    (Kind.MEMORY, State.FAILED, Now.FAILED), (Kind.STOPPED, State.TODO, Now.QUEUED),
])  # fmt: skip
def test_failures_say_why(tmp_path, kind, state, now):
    failures.write(tmp_path / "failed" / "1.json", Failure({}, kind, "that is why", (), 1, "", ""))
    (standing,) = of_plan(planned(tmp_path, cell("1", state=state))).cells
    assert standing.now is now
    assert standing.reason == ("" if kind is Kind.STOPPED else "that is why")


def test_events_are_followed(tmp_path):
    now = of_plan(planned(tmp_path, cell("1"), cell("2")))
    now.heard({"event": "processes", "number": 2})
    now.heard({"event": "begun", "cell": "1"})
    now.heard({"event": "progress", "cell": "1", "what": "x", "done": 3, "total": 4})
    assert now.cells[0].now is Now.RUNNING and now.cells[0].share == 0.75
    scored(tmp_path, "r1", 70.0)
    now.heard({"event": "done", "cell": "1", "runs": ["r1"], "seconds": 2.0})
    assert now.cells[0].now is Now.DONE and now.cells[0].score == 70.0 and now.seconds_left() == 2.0
    now.heard({"event": "failed", "cell": "2", "kind": "fault", "message": "oh", "again": True})
    assert now.cells[1].now is Now.QUEUED
    now.heard({"event": "failed", "cell": "2", "kind": "fault", "message": "oh", "again": False})
    assert now.cells[1].now is Now.FAILED and now.cells[1].reason == "oh" and now.seconds_left() == 0
    now.heard({"event": "not applicable", "cell": "2", "message": "no attention"})
    assert now.cells[1].now is Now.NOT_APPLICABLE


def test_json_is_for_programs(tmp_path):
    scored(tmp_path, "r1", 70.0)
    done = cell("1", state=State.DONE, run_ids=("r1",), seconds=4.0)
    found = json.loads(to_json(of_plan(planned(tmp_path, done, cell("2", "é")))))
    assert found["count"]["done"] == 1 and found["seconds_left"] == 4.0 and found["suite"] == "paper"
    assert found["cells"][0]["score"] == 70.0 and found["cells"][1]["model"] == "é"


def test_what_failed_is_to_do_again_and_nothing_else(tmp_path):
    every = [cell(str(i), str(i), state=state) for i, state in enumerate(State)]
    found = of_failed(planned(tmp_path, *every))
    assert [c.model for group in found.groups for c in group.cells] == [str([*State].index(State.FAILED))]
    assert len(found.cells) == len(every)
