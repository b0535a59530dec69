"""A suite on this machine gives the same records whatever the number of processes, and whatever ends them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.suites import Heard, marks, outcome, plug_in, quick, unsound

from dinobench.errors import UserError
from dinobench.signals import Interrupted
from dinobench.suite.file import read
from dinobench.suite.plan import plan
from dinobench.suite.task import read_task
from dinobench.suite.work import failures, local
from dinobench.suite.work.failures import Kind
from dinobench.suite.work.local import run_locally


@pytest.fixture(autouse=True)
def plugged_in(tmp_path, monkeypatch):
    plug_in(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def failed(suite):
    return {f.cell["settings"]["how"]: f for p in (suite.out / "failed").glob("*.json") if (f := failures.read(p))}


@pytest.mark.slow
def test_two_processes_two_calls_at_once_and_one_give_the_same(tmp_path):
    """Three folders: by one process, by two, and by two commands that begin at the same time."""
    one, two, both = (quick(tmp_path, name) for name in ("one", "two", "both"))
    run_locally(plan(one), device="cpu")
    heard = Heard()
    run_locally(plan(two), device="cpu", processes=2, told=heard)
    assert max(e["number"] for e in heard.events if e["event"] == "processes") == 2
    assert heard.kinds().count("done") == 12
    line = [sys.executable, "-m", "dinobench", "suite", "run", str(tmp_path / "quick.toml"), "--out", str(both.out)]
    calls = [subprocess.Popen([*line, "--device", "cpu"], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [call.wait() for call in calls] == [0, 0]
    assert outcome(one.out) == outcome(two.out) == outcome(both.out)


@pytest.mark.slow
def test_a_killed_process_loses_its_cell_alone_and_that_is_tried_again(tmp_path):
    suite, heard = unsound(tmp_path, "not", "survives", "killed", retries=1), Heard()
    run_locally(plan(suite), device="cpu", told=heard)
    assert marks(tmp_path) == ["killed-0-None", "killed-1-None", "not-0-None", "survives-0-None", "survives-1-None"]
    assert len([*(suite.out / "runs").iterdir()]) == 2
    (left,) = failed(suite).values()
    assert left.kind is Kind.FAULT and left.attempts == 2 and "SIGKILL" in left.message
    assert plan(suite).count() == {"done": 2, "failed": 1}


@pytest.mark.slow
def test_a_signal_is_passed_on_and_the_same_call_goes_on(tmp_path):
    suite = unsound(tmp_path, "not", "long")
    with pytest.raises(Interrupted) as raised:
        run_locally(plan(suite), device="cpu", told=Heard("done", signal.SIGUSR1))
    assert raised.value.number == signal.SIGUSR1
    (left,) = failed(suite).values()
    assert left.kind is Kind.STOPPED and left.attempts == 0
    assert plan(suite).count() == {"done": 1, "to do": 1}
    assert not [*suite.out.glob("suites/unsound/running/*.json")]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
def test_processes_end_with_whoever_started_them(tmp_path):
    suite = unsound(tmp_path, "long")
    line = [sys.executable, "-m", "dinobench", "suite", "run", str(tmp_path / "unsound.toml"), "--out", str(suite.out)]
    with subprocess.Popen([*line, "--device", "cpu"], stderr=subprocess.DEVNULL) as call:
        while not marks(tmp_path):
            time.sleep(0.1)
        call.kill()
    while not failed(suite):  # its process has been stopped in order
        time.sleep(0.1)
    assert failed(suite)["long"].kind is Kind.STOPPED


def test_a_process_that_cannot_start_is_no_endless_loop(tmp_path, monkeypatch):
    suite = unsound(tmp_path, "not", retries=1)
    planned = plan(suite)
    (tmp_path / "broken" / "filelock").mkdir(parents=True)
    (tmp_path / "broken" / "filelock" / "__init__.py").write_text("raise RuntimeError('no lock today')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'broken'}{os.pathsep}{os.environ['PYTHONPATH']}")
    with pytest.raises(RuntimeError, match=r"cannot start: .*no lock today"):
        run_locally(planned, device="cpu")


def test_a_number_of_processes_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="--processes 0"):
        run_locally(plan(unsound(tmp_path, "not")), processes=0)


def test_devices_are_dealt_out(tmp_path, monkeypatch):
    """Of four devices, two of them hidden, each process sees one; the first process saw both to count them."""
    seen = []
    monkeypatch.setattr(local.subprocess, "Popen", lambda line, env, **options: seen.append(env))
    monkeypatch.setattr(local.threading.Thread, "start", lambda self: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    launcher = local._Launcher(plan(unsound(tmp_path, "not")), "auto", None, print)
    launcher.devices = 2
    monkeypatch.setattr(launcher, "_listen", lambda *a: None)
    with pytest.raises(AttributeError):  # what stands for the process has no output
        launcher._worker(1, 2)
    assert seen[0]["CUDA_VISIBLE_DEVICES"] == "1"


class Process:
    """What a launcher sees of one: the lines that it is sent."""

    def __init__(self):
        self.stdin, self.sent = self, []

    def write(self, line):
        self.sent.append(json.loads(line))

    def flush(self):
        pass


def asking(tmp_path, *devices):
    """A suite with a task for each of these numbers of devices, in this order."""
    alike = list(zip(devices, MODELS_AND_PROTOCOLS, strict=False))
    named = "".join(f'{model} = "pixels:{i + 1}"\n' for i, (model, _) in enumerate(MODELS_AND_PROTOCOLS))
    runs = "".join(
        f'[[run]]\nprotocol = "{name}"\ndata = "digits"\nmodels = ["{model}"]\n' for _, (model, name) in alike
    )
    asked = "".join(f"{name} = {{ devices = {number} }}\n" for number, (_, name) in alike)
    (tmp_path / "s.toml").write_text(f"[models]\n{named}{runs}[resources]\n{asked}")
    return read(tmp_path / "s.toml", out=tmp_path / "out")


#: Of a task each.
MODELS_AND_PROTOCOLS = (("a", "knn"), ("b", "sound"), ("c", "logreg"))


def launched(suite, devices, processes):
    """A launcher whose so many processes have begun, on a machine with so many devices."""
    launcher = local._Launcher(plan(suite), "auto", processes, lambda event: None)
    launcher.workers = [local._Worker(number, Process()) for number in range(processes)]
    launcher._counted(devices)
    return launcher


def test_a_task_that_asks_for_several_devices_gets_them_at_once_when_it_is_its_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3")
    launcher = launched(asking(tmp_path, 1, 2, 3), 3, 3)
    first, second, third = launcher.workers
    launcher._hand_out()
    assert [w.holds for w in launcher.workers] == [(0,), (1, 2), ()]
    assert first.process.sent[0]["devices"] == [] and second.process.sent[0]["devices"] == ["5", "3"]
    launcher._heard(first, {"event": "ended", "code": 0})
    launcher._hand_out()
    assert first.task is third.task is None, "all three are to be free"
    launcher._heard(second, {"event": "ended", "code": 0})
    launcher._hand_out()
    assert first.process.sent[1]["devices"] == ["7", "5", "3"] and not launcher.waiting
    launcher._later(first.task)
    launcher._hand_out()
    assert second.task is third.task is None, "the devices of a task are nobody else's"


def test_nobody_asks_for_devices_before_they_are_counted(tmp_path):
    launcher = local._Launcher(plan(asking(tmp_path, 2)), "auto", 1, print)
    launcher.workers = [local._Worker(0, Process())]
    launcher._hand_out()
    assert launcher.workers[0].task is None
    launcher._heard(launcher.workers[0], {"event": "ready", "devices": 4})
    launcher._hand_out()
    assert launcher.workers[0].process.sent[0]["devices"] == ["0", "1"]


@pytest.mark.parametrize(
    ("devices", "words"), [(0, "here is the CPU alone"), (1, "here is one device"), (2, "here is 2 of them"), (3, "")]
)
def test_where_there_are_fewer_devices_that_is_said_once_and_the_task_is_run(devices, words, tmp_path, capsys):
    launcher = launched(asking(tmp_path, 3), devices, 1)
    launcher._counted(devices)
    said = capsys.readouterr().err
    assert said.count("asks for up to 3 devices") == bool(words) and words in said
    launcher._hand_out()
    (sent,) = launcher.workers[0].process.sent
    assert sent["devices"] == ([str(i) for i in range(devices)] if devices > 1 else [])


@pytest.mark.slow
def test_on_two_devices_as_on_one(tmp_path, monkeypatch):
    """The CPU is called two devices here: a process for each, and the record is what one makes."""
    one, two = asking(tmp_path, 1), asking(tmp_path, 2)
    two = dataclasses.replace(two, out=tmp_path / "two")
    run_locally(plan(one), device="cpu")
    counted = local._Launcher._counted
    monkeypatch.setattr(local._Launcher, "_counted", lambda self, devices: counted(self, 2))
    run_locally(plan(two), device="cpu")
    expected, found = outcome(one.out), outcome(two.out)
    (name,) = set(found) - {"leaderboard"}
    assert found[name].pop("processes") == 2 and expected[name].pop("processes") == 1
    assert found == expected


def test_the_file_of_a_task_names_its_cells(tmp_path):
    suite = unsound(tmp_path, "not", "once")
    launcher = local._Launcher(plan(suite), "cpu", 1, print)
    ((_, _, path),) = launcher.waiting
    assert [c.settings["how"] for c in read_task(path).cells] == ["not", "once"]
