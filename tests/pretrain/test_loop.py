"""The loop on real digits: what a step does, and that neither a stop nor computing in parts changes anything."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kills import every_kill
from helpers.pretraining import TINY

from dinobench import runtime
from dinobench.data import load_dataset
from dinobench.data.subsets import Subset
from dinobench.errors import UserError
from dinobench.pretrain import checkpoints, loop
from dinobench.pretrain import run as runs
from dinobench.pretrain.history import named_history
from dinobench.pretrain.method import MethodOutput
from dinobench.pretrain.methods.dino import Dino
from dinobench.signals import ENDING, Interrupted
from dinobench.types import ImageClassification


@pytest.fixture(scope="module")
def digits() -> ImageClassification:
    """96 images: three steps of 32 make an epoch."""
    whole = load_dataset("digits")
    return dataclasses.replace(whole, train=Subset(whole.train, np.arange(96), "train"))


@pytest.fixture(scope="module")
def started():
    return runtime.start("cpu")


def a_run(folder: Path, **changes: object) -> runs.Run:
    """A new run in `folder`; settings of the method by name, fields of Run too."""
    own = {k: v for k, v in changes.items() if k in {f.name for f in dataclasses.fields(runs.Run)}}
    config = runs.configure(Dino, TINY | {k: v for k, v in changes.items() if k not in own})
    base = runs.Run("dino", "vit_tiny", 16, 8, 1, "digits", dataclasses.asdict(config), "32")
    run = dataclasses.replace(base, **{"results": str(folder.parent / "results"), **own})
    runs.begin(folder, run)
    return run


def a_loop(folder: Path, started, digits, evaluate=None, **changes: object) -> loop.Loop:
    return loop.Loop(a_run(folder, **changes), folder, started, digits, evaluate=evaluate)


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = checkpoints.read(path)
    return {f"{k}.{n}": t for k in ("student", "teacher") for n, t in state[k].items()}


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(t, two[n]) for n, t in one.items())


def untimed(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, started, digits):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    history = a_loop(folder, started, digits).train()
    return folder, history


class Interrupting(Subset):
    """A split of which image number `at`, counted over all epochs, is read as Ctrl-C or another signal comes."""

    def __init__(self, part: Subset, at: int, number: int = signal.SIGINT) -> None:
        super().__init__(part.whole, part.indices, part.name)
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "reads", itertools.count())

    def load(self, index):
        if next(self.reads) == self.at:
            os.kill(os.getpid(), self.number)
        return super().load(index)


@pytest.mark.parametrize("step", range(5))
def test_a_run_stopped_at_any_step_ends_with_the_same_weights(step, whole, started, digits, tmp_path):
    folder, expected = whole
    before = signal.getsignal(signal.SIGINT)
    number = ENDING[step % len(ENDING)]
    interrupting = dataclasses.replace(digits, train=Interrupting(digits.train, 32 * step, number))
    run = a_run(tmp_path / "run")
    # Without worker processes, which heed no signals, and without room for images, so that every step reads its own.
    stopped = loop.Loop(run, tmp_path / "run", started, interrupting, workers=0, ram_bytes=0)
    with pytest.raises(Interrupted) as ended:
        stopped.train()
    assert stopped.at.step == step + 1 and ended.value.number == number
    resumed = loop.Loop(runs.read(tmp_path / "run"), tmp_path / "run", started, digits)
    assert resumed.at.step == step + 1
    history = resumed.train()
    assert same(folder / "checkpoint.pth", tmp_path / "run" / "checkpoint.pth")
    assert untimed(history) == untimed(expected)  # the means are over all steps of an epoch, not those since the stop
    assert [r["epoch"] for r in history] == [1, 2] and signal.getsignal(signal.SIGINT) is before


def test_a_run_stopped_at_every_step_has_the_rows_of_one_that_was_not(whole, started, digits, tmp_path, monkeypatch):
    """And so has one that is killed after it wrote on its own account, on whatever clock."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "WRITING", 0.0)
    a_run(tmp_path / "run")
    for step in range(1, 6):

        class Killed(Exception):
            pass

        going = loop.Loop(runs.read(tmp_path / "run"), tmp_path / "run", started, digits, workers=0)
        update = going.update

        def dying(loss, going=going, update=update, step=step):
            if going.at.step == step:
                raise Killed
            return update(loss)

        going.update = dying
        with pytest.raises(Killed):
            going.train()
    going = loop.Loop(runs.read(tmp_path / "run"), tmp_path / "run", started, digits)
    assert going.at.step == 5 and untimed(going.train()) == untimed(whole[1])
    assert same(whole[0] / "checkpoint.pth", tmp_path / "run" / "checkpoint.pth")


@pytest.mark.slow
def test_a_run_killed_at_any_step_on_the_disk_ends_as_one_that_was_not(
    started, digits, tmp_path, monkeypatch, one_thread
):
    """Checkpoint, kept copy, metrics and their copy, curves: whatever was written last, the run goes on from it."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(loop, "WRITING", 0.0)
    monkeypatch.setattr(loop.plots, "write_curves", lambda history, path, title: path.write_bytes(b"png"))
    expected = a_loop(tmp_path / "whole" / "run", started, digits).train()
    place = {"folder": tmp_path / "killed" / "0"}

    def work() -> list[dict]:
        folder = place["folder"]
        if not (folder / "run" / "run.json").exists():
            a_run(folder / "run", save_every=1)
        return loop.Loop(runs.read(folder / "run"), folder / "run", started, digits, workers=0).train()

    for step in every_kill(work, tmp_path / "killed"):
        history = work()
        folder = place["folder"]
        assert untimed(history) == untimed(expected), step
        written = (folder / "run" / "metrics.jsonl").read_text()
        assert [json.loads(line) for line in written.splitlines()] == history, step
        assert (folder / "results" / "training" / "run.jsonl").read_text() == written, step
        assert same(tmp_path / "whole" / "run" / "checkpoint.pth", folder / "run" / "checkpoint.pth"), step
        assert checkpoints.read(folder / "run" / "checkpoint0001.pth")["epoch"] == 1
        assert not list((folder / "run").glob(".*.tmp")), step
        shutil.rmtree(folder)
        place["folder"] = tmp_path / "killed" / str(step + 1)
    assert step > 30


def test_a_checkpoint_without_sums_is_gone_on_from(whole, started, digits, tmp_path):
    interrupting = dataclasses.replace(digits, train=Interrupting(digits.train, 32))
    stopped = loop.Loop(a_run(tmp_path / "run"), tmp_path / "run", started, interrupting, workers=0, ram_bytes=0)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    path = tmp_path / "run" / "checkpoint.pth"
    state = torch.load(path, weights_only=False)
    assert state["dinobench"].pop("meters")
    torch.save(state, path)
    history = loop.Loop(runs.read(tmp_path / "run"), tmp_path / "run", started, digits).train()
    assert history[0]["loss"] != whole[1][0]["loss"] and untimed(history)[1] == untimed(whole[1])[1]


@pytest.mark.parametrize("parts", [2, 3])
def test_steps_in_parts_give_what_whole_ones_give(parts, whole, started, digits, tmp_path):
    # Not AdamW, whose first steps follow the signs of gradients that are rounding errors (a key's bias has none).
    plain = {"drop_path": "0", "epochs": "1", "optimizer": "sgd", "lr": "4"}
    a_loop(tmp_path / "run", started, digits, **plain).train()
    a_loop(tmp_path / "parts", started, digits, accumulate=parts, **plain).train()
    one, two = (weights(tmp_path / n / "checkpoint.pth") for n in ("run", "parts"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_history_has_the_schedules_and_diagnostics(whole):
    folder, history = whole
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == history and [r["epoch"] for r in rows] == [1, 2] and [r["step"] for r in rows] == [3, 6]
    for row in rows:
        assert row["loss"] == pytest.approx(row["teacher_entropy"] + row["kl"], abs=1e-4)
        assert {"student_feature_std", "teacher_effective_rank", "momentum", "grad_norm", "images_per_s"} <= row.keys()
    assert rows[0]["lr"] == pytest.approx(0.01 * 32 / 256)  # the end of the warm-up
    assert (folder.parent / "results" / "training" / "run.jsonl").read_bytes() == (
        folder / "metrics.jsonl"
    ).read_bytes()
    assert (folder / "curves.png").stat().st_size > 0


def test_training_changes_what_it_should(whole, started, digits, tmp_path):
    start = a_loop(tmp_path / "run", started, digits)
    before = {f"student.module.{n}": t for n, t in start.method.student.state_dict().items()}
    after = weights(whole[0] / "checkpoint.pth")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.endswith("last_layer.weight_g"), name


def test_the_last_layer_waits_for_its_epoch(started, digits, tmp_path):
    trained = a_loop(tmp_path / "run", started, digits, epochs="1")
    before = trained.method.student.head.last_layer.weight_v.clone()
    trained.train()
    assert torch.equal(trained.method.student.head.last_layer.weight_v, before)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_loss_that_is_not_finite_stops_the_run(epoch, started, digits, tmp_path, monkeypatch):
    original = Dino.forward

    def forward(self, views, labels, now):
        output = original(self, views, labels, now)
        bad = now.step == 3 * epoch + 1
        return MethodOutput(output.loss * float("nan") if bad else output.loss, output.stats, output.features)

    monkeypatch.setattr(Dino, "forward", forward)
    words = "checkpoint.pth is the last good checkpoint" if epoch else "no checkpoint had been written yet"
    with pytest.raises(UserError, match=f"step {3 * epoch + 1} .epoch {epoch + 1}. is not finite; .*{words}"):
        a_loop(tmp_path / "run", started, digits, save_every=1).train()
    if epoch:
        kept = checkpoints.read(tmp_path / "run" / "checkpoint.pth")
        assert kept["epoch"] == 1 and all(t.isfinite().all() for t in kept["student"].values())
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_evaluation_sees_the_checkpoint_and_disturbs_nothing(whole, started, digits, tmp_path):
    seen = []

    def evaluate(path, epoch):
        torch.manual_seed(0)
        torch.randn(5)
        seen.append((epoch, checkpoints.read(path)["epoch"]))
        return {"knn/teacher/top1@k20": 10.0 * epoch}

    history = a_loop(tmp_path / "run", started, digits, evaluate, every=1).train()
    assert seen == [(0, 0), (1, 1), (2, 2)] and [r["knn/teacher/top1@k20"] for r in history] == [0.0, 10.0, 20.0]
    assert history[0] == {"epoch": 0, "step": 0, "knn/teacher/top1@k20": 0.0}
    unscored = [{k: v for k, v in row.items() if "/" not in k} for row in history[1:]]
    assert untimed(unscored) == untimed(whole[1])
    assert same(whole[0] / "checkpoint.pth", tmp_path / "run" / "checkpoint.pth")


def test_what_has_not_trained_is_scored_once(started, digits, tmp_path, monkeypatch):
    """Whatever a run that is resumed was stopped in: its first scoring, or its first epoch."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "WRITING", 0.0)
    a_run(tmp_path / "run", every=2)
    seen = []

    def evaluate(path, epoch):
        seen.append((epoch, checkpoints.read(path)["dinobench"]["step"]))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return {"a/b/c": float(epoch)}

    def going(split=digits):
        return loop.Loop(
            runs.read(tmp_path / "run"), tmp_path / "run", started, split, workers=0, ram_bytes=0, evaluate=evaluate
        )

    with pytest.raises(KeyboardInterrupt):
        going().train()
    with pytest.raises(Interrupted):
        going(dataclasses.replace(digits, train=Interrupting(digits.train, 0))).train()
    history = going().train()
    assert seen == [(0, 0), (0, 0), (2, 6)]
    assert [(r["epoch"], r.get("a/b/c")) for r in history] == [(0, 0.0), (1, None), (2, 2.0)]
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert written == history and going().train() == history and len(seen) == 3
    assert named_history(str(tmp_path / "run")) == ("run", history)


def test_a_first_epoch_is_not_judged_for_the_scores_before_it(started, digits, tmp_path, monkeypatch):
    judged = []
    monkeypatch.setattr(loop.collapse, "verdict", lambda rows, outputs: judged.append([r["epoch"] for r in rows]))
    a_loop(tmp_path / "run", started, digits, lambda path, epoch: {"a/b/c": 1.0}, every=1).train()
    assert judged == [[1], [1, 2]]


def test_curves_are_there_while_training_goes_on_and_a_failing_one_stops_nothing(
    started, digits, tmp_path, monkeypatch
):
    drawn = []

    def write(history, path, title):
        drawn.append([row["epoch"] for row in history])
        raise RuntimeError("no fonts")

    monkeypatch.setattr(loop.plots, "write_curves", write)
    monkeypatch.setattr(loop.plots, "FIRST", 0.0)
    monkeypatch.setattr(loop.plots, "SHARE", 1e9)
    history = a_loop(tmp_path / "run", started, digits, lambda path, epoch: {}, epochs="3", every=2).train()
    assert drawn == [[0], [0, 1, 2], [0, 1, 2, 3]] and len(history) == 4


def test_an_interruption_during_an_evaluation_costs_no_score(started, digits, tmp_path):
    def broken(path, epoch):
        if epoch:
            raise KeyboardInterrupt
        return {"a/b/c": 0}

    with pytest.raises(KeyboardInterrupt):
        a_loop(tmp_path / "run", started, digits, broken, every=1).train()
    resumed = loop.Loop(
        runs.read(tmp_path / "run"), tmp_path / "run", started, digits, evaluate=lambda p, e: {"a/b/c": e}
    )
    assert [(r["epoch"], r["a/b/c"]) for r in resumed.train()] == [(0, 0), (1, 1), (2, 2)]


def test_numbered_checkpoints_are_kept(started, digits, tmp_path):
    a_loop(tmp_path / "run", started, digits, save_every=1).train()
    assert [checkpoints.read(tmp_path / "run" / f"checkpoint000{e}.pth")["epoch"] for e in (1, 2)] == [1, 2]


def test_resnets_train(started, digits, tmp_path):
    trained = a_loop(tmp_path / "run", started, digits, epochs="1", arch="resnet18", patch_size=None, depth=None)
    trained.train()
    teacher, student = (n.state_dict() for n in (trained.method.teacher, trained.method.student))
    assert not torch.equal(teacher["backbone.bn1.running_mean"], student["backbone.bn1.running_mean"])
