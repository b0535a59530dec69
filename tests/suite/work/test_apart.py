"""A cell on several devices is what it is on one, and what goes wrong there counts as it does here."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest
from helpers.suites import Heard, outcome, plug_in, quick, unsound

from dinobench.errors import UserError
from dinobench.suite import task as tasks
from dinobench.suite.plan import plan
from dinobench.suite.task import DONE, FAILED, read_task, run_task, write_tasks
from dinobench.suite.work import failures
from dinobench.suite.work.apart import run_apart
from dinobench.types import ComputeOptions

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def plugged_in(tmp_path, monkeypatch):
    plug_in(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(tasks, "WAIT", 0.01)


def only(suite, **chosen):
    """The file of a task of the suite's first cell that has these fields."""
    path = write_tasks(plan(suite))[0]
    held = json.loads(path.read_text())
    held["cells"] = [c for c in held["cells"] if all(c[name] == value for name, value in chosen.items())][:1]
    path.write_text(json.dumps(held))
    return path


def test_two_processes_make_the_record_of_one(tmp_path):
    one, two = quick(tmp_path, "one"), quick(tmp_path, "two")
    assert run_task(only(one, protocol="knn"), "cpu") == DONE
    heard = Heard()
    assert run_task(only(two, protocol="knn"), "cpu", devices=2, told=heard) == DONE
    expected, found = outcome(one.out), outcome(two.out)
    (run_id,) = heard.events[-1]["runs"]
    assert found[run_id].pop("processes") == 2 and expected[run_id].pop("processes") == 1
    assert found[run_id] == expected[run_id]


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("input", UserError, "^image 7 is broken: mend it$"),
        ("memory", MemoryError, "too large"),
        ("fault", RuntimeError, "as asked for"),
    ],
)
def test_what_is_raised_there_is_raised_here(how, kind, words, tmp_path):
    suite = unsound(tmp_path, how)
    path = only(suite)
    (cell,) = read_task(path).cells
    with pytest.raises(kind, match=words):
        run_apart(path, cell, suite.out, ComputeOptions(device="cpu"))


def test_a_process_that_is_killed_is_a_fault_of_the_cell(tmp_path):
    suite = unsound(tmp_path, "killed", retries=0)
    assert run_task(only(suite), "cpu", devices=2) == FAILED
    (failed,) = map(failures.read, (suite.out / "failed").glob("*.json"))
    assert failed.kind == "fault" and "a process of 2 ended" in failed.message, failed


def test_a_signal_reaches_all_processes(tmp_path):
    suite = unsound(tmp_path, "long")
    path = only(suite)
    begun = threading.Event()

    def stop():
        while not (tmp_path / "marks").is_dir() or len(list((tmp_path / "marks").iterdir())) < 1:
            begun.wait(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert run_task(path, "cpu", devices=2) == 128 + signal.SIGTERM
    (failed,) = map(failures.read, (suite.out / "failed").glob("*.json"))
    assert failed.kind == "stopped" and failed.attempts == 0
