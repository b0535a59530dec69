"""The demo: its training, what is scored beside it, and going on after an interruption."""

from __future__ import annotations

import dataclasses
import signal

import pytest
import torch

from dinobench import demo as demos
from dinobench.demo import NETWORKS, PIXELS, RECIPE, START, STEPS, TRAINED, demo, pretrain
from dinobench.errors import UserError
from dinobench.pretrain.checkpoints import read
from dinobench.pretrain.loop import Loop
from dinobench.registry import available

#: The demo's own training with far fewer steps.
SHORT = dataclasses.replace(
    RECIPE, depth=1, settings={**RECIPE.settings, "epochs": 2, "batch": 256, "warmup_epochs": 0}
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, pretrain(out, "cpu", SHORT)


def test_every_protocol_has_its_step():
    assert {step.protocol for step in STEPS} == set(available())
    assert all(set(NETWORKS) <= set(step.models) for step in STEPS)


def test_the_start_is_the_network_before_its_training(trained):
    _, files = trained
    start = torch.load(files[START], weights_only=True)["state_dict"]
    teacher = read(files[TRAINED])["teacher"]
    assert {f"backbone.{name}" for name in start} == {n for n in teacher if n.startswith("backbone.")}
    assert all(teacher[f"backbone.{name}"].shape == tensor.shape for name, tensor in start.items())
    assert not torch.equal(teacher["backbone.cls_token"], start["cls_token"])


def test_what_is_trained_is_not_trained_again(trained):
    out, files = trained

    def state():
        return {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files.items()}

    before = state()
    assert pretrain(out, "cpu", SHORT) == files
    assert state() == before  # a step would have left a checkpoint with other times in it


def test_an_interrupted_training_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    _, files = trained
    update = Loop.update

    def stopped(self, loss):
        if self.at.step == 2:
            signal.raise_signal(signal.SIGINT)  # heeded once the step is done
        return update(self, loss)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "update", stopped)
        pretrain(tmp_path, "cpu", SHORT)
    assert read(tmp_path / "pretrain" / TRAINED / "checkpoint.pth")["dinobench"]["step"] == 3
    again = pretrain(tmp_path, "cpu", SHORT)
    assert again[START].read_bytes() == files[START].read_bytes()
    whole, resumed = (read(f[TRAINED])["teacher"] for f in (files, again))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_another_recipe_is_refused(trained):
    out, _ = trained
    with pytest.raises(UserError, match="another recipe; delete it"):
        pretrain(out, "cpu", dataclasses.replace(SHORT, settings={**SHORT.settings, "epochs": 3}))


def test_all_models_are_scored_at_the_same_settings(trained, monkeypatch):
    out, _ = trained
    monkeypatch.setattr(demos, "STEPS", STEPS[:1])
    records = demo(out, "cpu", SHORT)
    assert [r.checkpoint.name for r in records] == [TRAINED, START, f"{PIXELS}16"]  # its side
    assert len({r.config_hash for r in records}) == 1


@pytest.mark.slow
def test_the_trained_network_is_ahead_of_its_start(tmp_path, monkeypatch):
    """Half of the demo's epochs is enough for that."""
    monkeypatch.setattr(demos, "STEPS", STEPS[:1])
    fewer = dataclasses.replace(RECIPE, settings={**RECIPE.settings, "epochs": RECIPE.settings["epochs"] // 2})
    scores = {r.checkpoint.name: r.metrics["top1@k20"] for r in demo(tmp_path, "cpu", fewer)}
    assert scores[TRAINED].ci_low is not None
    assert scores[TRAINED].ci_low > scores[START].value
