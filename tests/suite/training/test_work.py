"""The task that first needs a model trains it, as `dinobench pretrain` would: once, and on from where it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock
from helpers.suites import Heard, outcome
from helpers.trained import TEXT, trained

from dinobench import console, signals
from dinobench.models.checkpoint import read_file
from dinobench.pretrain import history
from dinobench.suite import task as tasks
from dinobench.suite.plan import plan
from dinobench.suite.task import DONE, REFUSED, run_task, write_tasks
from dinobench.suite.training import standing, work
from dinobench.suite.work import failures
from dinobench.suite.work.local import run_locally


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, own_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(tasks, "WAIT", 0.01)
    return tmp_path


def run(suite, heard=None):
    return [run_task(path, "cpu", told=heard or Heard()) for path in write_tasks(plan(suite))]


def weights(suite, model):
    """Tensors of the model's file by name, whatever holds them."""
    found = {}
    for key, part in read_file(suite.trainings[model].file)[1].items():
        if key in ("student", "teacher", "state_dict"):
            found |= {f"{key}.{name}": tensor for name, tensor in part.items()}
    return found


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_models_are_trained_and_scored_and_found_again(here, monkeypatch):
    monkeypatch.setattr(tasks.Running, "progress", _eager(tasks.Running.progress))
    suite, heard = trained(here), Heard()
    assert run(suite, heard) == [DONE] * 3 and heard.kinds() == ["begun", "done"] * 3
    told = {e["what"] for e in heard.events if e["event"] == "progress"}
    assert any("training dino, Epoch 1/2: loss" in what and "left in all" in what for what in told)
    found = plan(suite)
    assert found.count() == {"done": 3} and all(t.look.done and t.basis == "done" for t in found.trainings)
    assert {c.model for c in found.cells} == {"dino", "dino-start", "byol"} and all(c.run_ids for c in found.cells)
    folder = here / "results" / "training"
    assert {"checkpoint.pth", "run.json", "metrics.jsonl", "curves.png", "start.pth"} <= {
        path.name for path in (folder / "dino").iterdir()
    }
    assert len(history.read_metrics(folder / "byol.jsonl")) == 2  # where the report finds it
    record = json.loads((here / "results" / "runs" / f"{found.cells[0].run_ids[0]}.json").read_text())
    assert record["checkpoint"]["path"] == "results/training/dino/checkpoint.pth"
    arch = {json.loads(p.read_text())["checkpoint"]["arch"] for p in (here / "results" / "runs").glob("*.json")}
    stand_in = standing.stand_in(suite.trainings["byol"])
    from dinobench.models.loading import load_backbone

    assert arch == {load_backbone(str(stand_in)).info.arch}  # so that durations are known before
    assert run(suite) == []


@pytest.mark.slow
def test_it_is_what_the_command_trains_and_a_folder_of_the_command_is_gone_on_with(here):
    suite = trained(here, TEXT + 'models = ["dino"]\n')
    line = ["--method", "dino", "--data", "photos", "--arch", "vit_w32", "--depth", 1, "--patch-size", 8,
            "--image-size", 8, "--epochs", 2, "--batch", 16, "--out", "results/training/dino", "--device", "cpu",
            "--set", "warmup_epochs=1", "--set", "out_dim=8", "--set", "hidden_dim=8", "--set", "bottleneck_dim=8",
            "--set", "local_crops=0"]  # fmt: skip
    typed = [sys.executable, "-m", "dinobench", "pretrain", *map(str, line)]
    subprocess.run(typed, check=True, capture_output=True)
    by_hand = weights(suite, "dino")
    assert plan(suite).cells[0].reason == ""  # nothing is to be trained
    own = trained(here, TEXT + 'models = ["dino"]\n', out="own")
    assert run(own) == [DONE] and same(weights(own, "dino"), by_hand)


@pytest.mark.slow
def test_stopped_by_a_signal_it_goes_on_and_ends_with_the_same_weights(here):
    whole, torn = trained(here, out="whole"), trained(here, out="torn")
    assert run(whole) == [DONE] * 3
    with signals.handled_by(signals.interrupt):
        stopping = Heard("progress", signal.SIGTERM)
        code = run_task(write_tasks(plan(torn))[0], "cpu", told=stopping)
    assert code in (128 + signal.SIGTERM, DONE)
    assert run(torn)[-1] == DONE
    assert same(weights(whole, "dino"), weights(torn, "dino")) and outcome(whole.out).keys() == outcome(torn.out).keys()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
def test_killed_and_run_again_by_two_processes_the_weights_are_the_same(here):
    text = TEXT.replace("epochs = 2", "epochs = 12")
    whole, torn = trained(here, text, out="whole"), trained(here, text, out="torn")
    run(whole)
    line = [sys.executable, "-m", "dinobench", "suite", "run", "t.toml", "--out", "torn", "--processes", "2"]
    with subprocess.Popen([*line, "--device", "cpu"], stderr=subprocess.DEVNULL, start_new_session=True) as call:
        while not (here / "torn" / "training" / "dino" / history.METRICS).exists():
            time.sleep(0.05)
        os.kill(call.pid, signal.SIGKILL)
    heard = Heard()
    run_locally(plan(torn), device="cpu", processes=2, told=heard)
    assert plan(torn).count() == {"done": 3}
    for model in ("dino", "dino-start", "byol"):
        assert same(weights(whole, model), weights(torn, model))
    assert {k: v for k, v in outcome(whole.out).items() if k != "leaderboard"}.keys() == {
        k: v for k, v in outcome(torn.out).items() if k != "leaderboard"
    }.keys()


def test_whoever_comes_second_waits_for_the_model(here, monkeypatch):
    monkeypatch.setattr(work, "LATER", 0.01)
    training = trained(here).trainings["byol"]
    lock, told = FileLock(work.Path(training.folder) / work.LOCK, thread_local=False), []
    training.file.parent.mkdir(parents=True)
    lock.acquire()

    def watch(what, done, total):
        told.append(what)
        if len(told) == 3:
            lock.release()

    work.ensure(training, "cpu", watch)
    assert told[:3] == ["waits for the training of byol by another process"] * 3
    assert standing.look(training).done and told[-1].startswith("training byol, ")
    work.ensure(training, "cpu", told.append)  # is there


def test_a_training_that_fails_fails_its_cells_once_each(here, monkeypatch):
    calls = []

    def fails(training, device, watch):
        calls.append(training.name)
        raise tasks.UserError("the loss of step 3 (epoch 1) is not finite")

    monkeypatch.setattr(tasks, "ensure", fails)
    suite, heard = trained(here, TEXT + 'models = ["byol"]\nseeds = [0, 1]\n'), Heard()
    assert run(suite, heard) == [REFUSED] and calls == ["byol"]
    messages = [e["message"] for e in heard.events if e["event"] == "failed"]
    assert messages == ["training byol: the loss of step 3 (epoch 1) is not finite"] * 2
    (one, _) = [failures.read(path) for path in (suite.out / "failed").iterdir()]
    assert one.lines[-1] == "error: training byol: the loss of step 3 (epoch 1) is not finite"


def test_a_fault_is_tried_again_with_the_cells(here, monkeypatch):
    calls, real = [], tasks.ensure

    def once(training, device, watch):
        calls.append(training.name)
        if len(calls) == 1:
            raise ZeroDivisionError("as asked for")
        real(training, device, watch)

    monkeypatch.setattr(tasks, "ensure", once)
    suite = trained(here, TEXT + 'models = ["byol"]\nseeds = [0, 1]\n')
    assert run(suite) == [DONE] and calls == ["byol", "byol"]


def test_the_status_shows_the_training(here, monkeypatch):
    from dinobench.cli.display import dashboard
    from dinobench.suite.work import status

    suite, seen = trained(here, TEXT + 'models = ["byol"]\n'), []

    def told(event):
        if event["event"] == "progress" and "Epoch" in event["what"] and not seen:
            with monkeypatch.context() as quiet:
                quiet.setattr(console, "watcher", None)  # another process would look
                seen.append("\n".join(dashboard.lines(status.status(suite), 200, 50)))

    monkeypatch.setattr(tasks.Running, "progress", _eager(tasks.Running.progress))
    (path,) = write_tasks(plan(suite))
    assert run_task(path, "cpu", told=told) == DONE
    assert "knn · images of byol: training byol, Epoch 1/2: loss" in seen[0] and "unknown time left" in seen[0]


def _eager(progress):
    """Progress that is told at every step."""

    def call(self, *what):
        self._said = -1e9
        progress(self, *what)

    return call
