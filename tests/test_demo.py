"""The demo: its trainings, what is scored beside them and said of it, and going on after an interruption."""

from __future__ import annotations

import dataclasses
import json
import signal

import pytest
import torch
from helpers.samples import INFO, record

from dinobench import demo as demos
from dinobench.demo import (
    NETWORKS,
    NO_CENTRING,
    NO_SHARPENING,
    OTHERS,
    PIXELS,
    RECIPE,
    START,
    STEPS,
    SUPERVISED,
    TRAINED,
    demo,
    findings,
    pretrain,
)
from dinobench.errors import UserError
from dinobench.pretrain.checkpoints import read
from dinobench.pretrain.loop import Loop
from dinobench.registry import available

#: The demo's own training with far fewer steps.
SHORT = dataclasses.replace(
    RECIPE, depth=1, settings={**RECIPE.settings, "epochs": 1, "batch": 500, "warmup_epochs": 0}
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


def test_another_seed_is_another_training(trained):
    out, _ = trained
    with pytest.raises(UserError, match="another recipe; delete it"):
        pretrain(out, "cpu", SHORT.seeded(1))
    assert SHORT.seeded(1).settings == {**SHORT.settings, "seed": 1}
    assert pretrain(out, "cpu", SHORT.seeded(0))  # the seed of settings that name none


def test_a_training_leaves_the_threads_as_they_were(trained, monkeypatch):
    out, _ = trained
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(Loop, "train", lambda self: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        pretrain(out, "cpu", SHORT)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_all_models_are_scored_at_the_same_settings(trained, monkeypatch):
    out, _ = trained
    monkeypatch.setattr(demos, "STEPS", STEPS[:1])
    records = demo(out, "cpu", SHORT, {})
    assert [r.checkpoint.name for r in records] == [TRAINED, START, f"{PIXELS}16"]  # its side
    assert len({r.config_hash for r in records}) == 1


def test_what_stands_beside_it_has_its_network_and_its_part_taken_away():
    assert set(OTHERS) == {SUPERVISED, NO_CENTRING, NO_SHARPENING}
    same = ("arch", "patch_size", "depth")
    assert all(getattr(other, name) == getattr(RECIPE, name) for other in OTHERS.values() for name in same)
    assert OTHERS[SUPERVISED].settings["epochs"] == RECIPE.settings["epochs"]
    changed = [
        {k: v for k, v in OTHERS[name].settings.items() if RECIPE.settings.get(k) != v}
        for name in (NO_CENTRING, NO_SHARPENING)
    ]
    assert changed == [{"epochs": 3, "centering": "off"}, {"epochs": 3, "sharpening": False}]


def test_the_sentences_say_what_the_records_do(tmp_path, monkeypatch):
    values = {TRAINED: 70.0, START: 30.0, PIXELS: 40.0, SUPERVISED: 75.0}
    records = []
    for step in STEPS:
        for name in step.models:
            info = dataclasses.replace(INFO, name=f"{name}16" if name == PIXELS else name, method=name)
            metric = {"m": dataclasses.replace(record().metrics["top1@k20"], value=values[name])}
            records.append(record(protocol=step.protocol, checkpoint=info, metrics=metric, primary="m"))
    for name, used, kl in ((TRAINED, 4.0, 0.8), (NO_CENTRING, 0.0, 0.0), (NO_SHARPENING, 4.1, 0.001)):
        folder = tmp_path / "pretrain" / name
        folder.mkdir(parents=True)
        row = {"epoch": 1, "teacher_entropy": used / 2, "teacher_mean_entropy": used, "kl": kl}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    asked = []

    def difference(out, a, b, name):
        asked.append((a.protocol, a.checkpoint.method, b.checkpoint.method))
        return f"{a.metrics['m'].value - b.metrics['m'].value:+.0f} to {name}"

    monkeypatch.setattr(demos, "_difference", difference)
    first, second, third, last = findings(tmp_path, records)
    assert "70.0 % by k-NN, +40 to its untrained start and +30 to raw pixels" in first
    assert "Jaccard of 70.0, +40 to its untrained start and -5 to the same network with labels" in second
    assert third.count("+40") == 2
    assert "uses 1.0 of its 64 outputs (54.6 with it)" in last and "2.05 of at most 4.16 (2.00 with it)" in last
    assert (tmp_path / demos.COLLAPSES).stat().st_size > 1000
    assert {a for _, a, _ in asked} == {TRAINED} and len(asked) == 8


def test_a_difference_is_named_as_it_is(trained, monkeypatch):
    out, _ = trained
    monkeypatch.setattr(demos, "STEPS", STEPS[:1])
    one, other, _ = demo(out, "cpu", SHORT, {})
    same = demos._difference(out, one, one, "itself")
    assert same.startswith("not told apart from itself (+0.0 points, paired p 1.0000)")
    gap = one.metrics[one.primary].value - other.metrics[other.primary].value
    said = [demos._difference(out, *pair, "it") for pair in ((one, other), (other, one))]
    if said[0].startswith("not told"):
        assert f"({gap:+.1f} points" in said[0]
    else:
        assert [" above " in text for text in said] == [gap > 0, gap < 0]
        assert all(text.startswith(f"{abs(gap):.1f} points") for text in said)


@pytest.mark.slow
def test_the_trained_network_is_ahead_of_its_start(tmp_path, monkeypatch):
    """Half of the demo's epochs is enough for that; of a quarter, 310 steps, it was not."""
    monkeypatch.setattr(demos, "STEPS", STEPS[:1])
    trained, start, _ = demo(tmp_path, "cpu", RECIPE.less(RECIPE.settings["epochs"] // 2), {})
    ours, theirs = (r.metrics["top1@k20"] for r in (trained, start))
    assert ours.ci_low is not None
    assert ours.ci_low > theirs.value
