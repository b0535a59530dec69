"""What a process says of itself while it lives is not believed once it is dead."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from dinobench.suite.work import running
from dinobench.suite.work.running import Report, Running, job, read


def test_a_process_says_what_it_is_at_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "STEP", 0.0)
    monkeypatch.setattr(running, "REST", 0.0)
    path, told = tmp_path / "running" / "g.json", []
    with Running(path, "g", told.append) as now:
        assert read(path).cell is None
        now.cell("c")
        now.progress("Extracting", 3, 4)
        found = read(path)
        assert (found.group, found.pid, found.host) == ("g", os.getpid(), socket.gethostname())
        assert (found.cell, found.what, found.share) == ("c", "Extracting", 0.75)
        now.cell("d")
        assert read(path).share is None
    assert not path.exists() and [*path.parent.iterdir()] == []
    assert told == [{"event": "progress", "cell": "c", "what": "Extracting", "done": 3, "total": 4}]


def test_progress_is_told_about_once_a_second(tmp_path):
    told = []
    with Running(tmp_path / "g.json", "g", told.append) as now:
        for i in range(1000):
            now.progress("x", i, 1000)
    assert len(told) <= 2


def test_the_last_of_many_quick_cells_is_said_soon(tmp_path):
    path = tmp_path / "g.json"
    with Running(path, "g", lambda event: None) as now:
        for i in range(1000):
            now.cell(str(i))
        while read(path).cell != "999":
            time.sleep(0.01)


def test_it_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "BEAT", 0.01)
    path = tmp_path / "g.json"
    with Running(path, "g", lambda event: None):
        first = read(path).heartbeat
        while read(path).heartbeat == first:
            time.sleep(0.01)


def write(path, **changes):
    report = Report("g", os.getpid(), socket.gethostname(), heartbeat=time.time())
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(report, **changes))))
    return read(path)


def test_the_dead_and_the_silent_are_not_believed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    path = tmp_path / "g.json"
    assert write(path) is not None and write(path, host="elsewhere", pid=gone.pid) is not None
    assert write(path, pid=gone.pid) is None
    assert write(path, heartbeat=time.time() - running.DEAD - 1) is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"odd": 1}', '{"group": "g", "pid": 1, "host": "h", "heartbeat": "x"}']
)
def test_what_is_no_report_is_none(tmp_path, text):
    (tmp_path / "g.json").write_text(text)
    assert read(tmp_path / "g.json") is None


def test_slurm_jobs_are_named(monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert job() == "7"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert job() == "5_2"
