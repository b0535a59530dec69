"""What a job does when it has to end: `scontrol` here is a script that notes what it is asked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dinobench import signals
from dinobench.suite import task
from dinobench.suite.slurm import job
from dinobench.suite.slurm.job import SlurmTask


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes `scontrol` show a state; returns what it was asked so far."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)

    def make(shown: str):
        script = f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\necho 'JobId=12 {shown} Partition=main'\n"
        (tmp_path / "scontrol").write_text(script)
        (tmp_path / "scontrol").chmod(0o755)
        return lambda: (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []

    return make


@pytest.mark.parametrize(
    ("shown", "goes_on"),
    [
        ("JobState=RUNNING Reason=None", True),
        ("JobState=COMPLETING Reason=TimeLimit", True),
        ("JobState=COMPLETING Reason=None", False),
        ("JobState=CANCELLED Reason=None", False),
    ],
)
def test_a_job_that_gives_way_goes_back_and_one_that_was_cancelled_does_not(shown, goes_on, scontrol):
    asked = scontrol(shown)
    assert job.put_back(2) == ("put back into the queue" if goes_on else "not put back into the queue: cancelled")
    assert asked() == ["--oneliner show job 12"] + ["requeue 12"] * goes_on


def test_it_goes_back_as_often_as_the_suite_says(scontrol, monkeypatch):
    asked = scontrol("JobState=RUNNING")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert job.put_back(2) == "not put back into the queue: started again 2 times, and retries = 2" and asked() == []
    assert job.put_back(3) == "put back into the queue"


def test_without_scontrol_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert job.put_back(2).startswith("not put back into the queue: scontrol: no such command here")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_what_a_signal_stopped_goes_back_with_the_signals_exit_code(number, scontrol, monkeypatch, capsys):
    asked = scontrol("JobState=RUNNING")
    monkeypatch.setenv("SLURM_NTASKS", "1")

    def run(path, devices, told):
        assert "SLURM_NTASKS" not in os.environ and devices == 1
        told({"event": "begun", "cell": "a"})
        told({"event": "progress", "cell": "a"})
        with pytest.raises(signals.Interrupted):
            os.kill(os.getpid(), number)
        return 128 + number

    monkeypatch.setattr(task, "run_task", run)
    with pytest.raises(SystemExit) as ended:
        SlurmTask("task.json", 2)()
    assert ended.value.code == 128 + number and asked()[-1] == "requeue 12"
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith('{"event": "begun", "cell": "a"}') and last.endswith(" put back into the queue")


@pytest.mark.parametrize(
    ("code", "back"), [(task.DONE, False), (task.FAILED, False), (task.BUSY, False), (task.AGAIN, True)]
)
def test_what_ended_by_itself_goes_back_where_a_fresh_process_may_help(code, back, scontrol, monkeypatch):
    asked = scontrol("JobState=RUNNING")
    monkeypatch.setattr(task, "run_task", lambda path, devices, told: code)
    if code:
        with pytest.raises(SystemExit):
            SlurmTask("task.json", 2)()
    else:
        SlurmTask("task.json", 2)()
    assert bool(asked()) is back
