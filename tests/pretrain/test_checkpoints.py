"""Checkpoints: DINO's layout, read by the evaluation, by ourselves and from the release; whole, whatever happens."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.kills import every_kill
from helpers.paths import TESTS
from helpers.pretraining import make, save

from dinobench import runtime
from dinobench.data import load_dataset
from dinobench.errors import UserError
from dinobench.models.loading import inspect_checkpoint, load_backbone
from dinobench.pretrain import checkpoints
from dinobench.pretrain import run as runs
from dinobench.pretrain.loop import Loop


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def test_layout_of_the_release(tmp_path):
    method, optimizer, chosen = make()
    method.centering.center.fill_(2.0)
    path = save(tmp_path / "checkpoint.pth", method, optimizer, chosen)
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, weights_only=True)
    assert {"student", "teacher", "optimizer", "epoch", "args", "dino_loss"} <= state.keys()
    assert state["epoch"] == 2 and state["args"].arch == "vit_w192_d1_patch8" and state["args"].blur_p == [1.0, 0.5]
    assert state["dino_loss"]["center"].tolist() == [[2.0] * 16]
    assert {"module.backbone.cls_token", "module.head.mlp.0.weight", "module.head.last_layer.weight_g"} <= set(
        state["student"]
    )
    assert {"backbone.pos_embed", "backbone.blocks.0.attn.qkv.weight", "head.last_layer.weight_v"} <= set(
        state["teacher"]
    )
    assert state["teacher"]["backbone.pos_embed"].shape == (1, 5, 192)
    assert [len(g["params"]) for g in state["optimizer"]["param_groups"]] == [11, 14]


@pytest.mark.parametrize(("arch", "depth"), [("vit_tiny", 1), ("vit_tiny", None), ("resnet18", None)])
def test_the_evaluation_reads_teacher_and_student(arch, depth, tmp_path):
    method, optimizer, chosen = make(arch=arch, depth=depth, image_size=32)
    path = save(tmp_path / "checkpoint.pth", method, optimizer, chosen)
    x = torch.randn(2, 3, 32, 32)
    method.eval()
    for key in ("teacher", "student"):
        backbone = load_backbone(path, key=key)
        with torch.no_grad():
            torch.testing.assert_close(backbone.features(x), getattr(method, key).backbone(x), rtol=1e-4, atol=1e-4)
        assert (backbone.info.method, backbone.info.epoch) == ("dino", 2)
    assert load_backbone(path).info.key == "teacher.backbone"
    assert not inspect_checkpoint(path).unexpected


@pytest.mark.parametrize("size", [24, 48])
def test_other_resolutions_are_seen_as_the_evaluation_sees_them(size, tmp_path):
    method, optimizer, chosen = make(image_size=32)
    backbone = load_backbone(save(tmp_path / "c.pth", method, optimizer, chosen))
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(x), method.teacher.eval().backbone(x), rtol=1e-4, atol=1e-5)


def test_everything_comes_back(tmp_path):
    one, optimizer, chosen = make()
    one.centering.center.normal_()
    path = save(tmp_path / "checkpoint.pth", one, optimizer, chosen, step=7)
    two, other, _ = make(seed=1)
    at = checkpoints.load(path, two, other, 5)
    assert (at.step, at.row) == (7, {"epoch": 2, "loss": 1.5})
    assert equal(one.state_dict(), two.state_dict())
    states = [o.state_dict()["state"] for o in (optimizer, other)]
    assert all(equal(states[0][i], states[1][i]) for i in states[0])


def test_a_full_checkpoint_of_the_release_is_gone_on_from(tmp_path):
    """As DINO's own loop leaves it: no key of ours, NumPy numbers in the optimizer, `module.` in the student."""
    import numpy as np

    one, optimizer, chosen = make()
    one.centering.center.normal_()
    state = torch.load(save(tmp_path / "c.pth", one, optimizer, chosen), weights_only=False)
    del state["dinobench"]
    state["epoch"] = 3
    for group in state["optimizer"]["param_groups"]:
        group["lr"] = np.float64(0.1)
        del group["fused"]
    torch.save(state, tmp_path / "released.pth")
    two, other, _ = make(seed=1)
    assert checkpoints.load(tmp_path / "released.pth", two, other, 5).step == 15
    assert equal(one.state_dict(), two.state_dict())
    assert all(g["fused"] for g in other.param_groups)

    del state["optimizer"], state["dino_loss"]
    torch.save(state, tmp_path / "weights.pth")
    three, other, _ = make(seed=2)
    assert checkpoints.load(tmp_path / "weights.pth", three, other, 5).step == 0
    assert equal(one.student.state_dict(), three.student.state_dict())


def test_the_release_s_student_loads_into_a_model_of_its_names(tmp_path):
    """torch's own weight_norm and plain Linear layers, as facebookresearch/dino builds them, take our tensors."""
    from torch import nn

    method, optimizer, chosen = make()
    state = checkpoints.read(save(tmp_path / "c.pth", method, optimizer, chosen))
    head = nn.Module()
    head.mlp = nn.Sequential(nn.Linear(192, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    head.last_layer = nn.utils.weight_norm(nn.Linear(8, 16, bias=False))
    ours = {n.removeprefix("head."): t for n, t in state["teacher"].items() if n.startswith("head.")}
    assert head.load_state_dict(ours) and head.last_layer.weight_v.shape == (16, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("teacher"), "lacks teacher"),
        (lambda s: s["student"].popitem(), "lacks student"),
        (lambda s: s["student"].update({"module.backbone.cls_token": torch.zeros(1, 1, 3)}), r"\(1, 1, 3\) instead"),
        (lambda s: s["student"].update(other=torch.zeros(1)), "does not fit: student.other"),
        (lambda s: s["optimizer"]["param_groups"].pop(), "its optimizer does not fit"),
        (lambda s: s["optimizer"].update(param_groups=3), "its optimizer does not fit"),
        (lambda s: s["optimizer"].pop("state"), "its optimizer does not fit"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(2, 2)), r"exp_avg \(2, 2\) instead of"),
        (lambda s: s["dinobench"].update(schema=99), "later dinobench"),
        (lambda s: s["dinobench"].update(schema="1"), "no schema, step or row"),
        (lambda s: s["dinobench"].pop("step"), "no schema, step or row"),
        (lambda s: s["dinobench"].update(row=[1]), "no schema, step or row"),
        (lambda s: s["dinobench"].update(method={"center": 3}), "its `method` is not a dict of tensors"),
        (lambda s: s["student"].update({3: torch.zeros(1)}), "its `student` is not a dict of tensors"),
        (lambda s: s.update(teacher=[1]), "its `teacher` is not a dict of tensors"),
        (lambda s: s.pop("student"), "no `student`"),
    ],
)
def test_what_does_not_fit_is_named(change, words, tmp_path):
    method, optimizer, chosen = make()
    state = torch.load(save(tmp_path / "c.pth", method, optimizer, chosen), weights_only=False)
    change(state)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(UserError, match=words):
        checkpoints.load(tmp_path / "c.pth", method, optimizer, 5)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x89PNG"])
def test_a_damaged_file_is_one_line(content, tmp_path):
    (tmp_path / "checkpoint.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pth: "):
        checkpoints.read(tmp_path / "checkpoint.pth")


WRITER = """
import sys, torch
from pathlib import Path
from helpers.pretraining import make, save
method, optimizer, chosen = make()
step = 0
while True:
    step += 1
    with torch.no_grad():
        for p in method.parameters():
            p.fill_(step)
    save(Path(sys.argv[1]), method, optimizer, chosen, step)
    print(step, flush=True)
"""


def test_kill_while_writing_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    environ = {**os.environ, "PYTHONPATH": str(TESTS)}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environ, cwd=tmp_path, text=True
    )
    assert writer.stdout is not None
    for _ in range(3):
        writer.stdout.readline()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".*.tmp")) and time.monotonic() < deadline:  # in the middle of the next one
        time.sleep(0.0005)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    method, optimizer, _ = make(seed=1)
    at = checkpoints.load(path, method, optimizer, 5)
    assert at.step >= 3
    assert all(bool((p == at.step).all()) for p in method.student.parameters())
    checkpoints.clean(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(obj, file):
        raise OSError(28, "No space left on device")

    method, optimizer, chosen = make()
    path = save(tmp_path / "checkpoint.pth", method, optimizer, chosen)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left"):
        save(path, method, optimizer, chosen)
    assert path.read_bytes() == before


def test_a_save_killed_at_any_step_leaves_the_state_before_or_after(tmp_path, one_thread):
    method, optimizer, chosen = make()
    before = save(tmp_path / "run" / "checkpoint.pth", method, optimizer, chosen, step=5).read_bytes()
    other, _, _ = make(seed=1)
    found = set()
    for step in every_kill(lambda: save(tmp_path / "run" / "checkpoint.pth", other, optimizer, chosen), tmp_path):
        checkpoints.clean(tmp_path / "run")
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint.pth"], step
        at = checkpoints.load(tmp_path / "run" / "checkpoint.pth", *make(seed=2)[:2], 5)
        found.add(at.step)
        assert at.step in (5, 10) and (at.step == 10 or (tmp_path / "run" / "checkpoint.pth").read_bytes() == before)
        (tmp_path / "run" / "checkpoint.pth").write_bytes(before)
    assert found == {5} or found == {5, 10}
    two, state, _ = make(seed=2)
    assert step >= 3 and checkpoints.load(tmp_path / "run" / "checkpoint.pth", two, state, 5).step == 10
    assert equal(two.state_dict(), other.state_dict())


def begun(method, folder, **settings):
    config = runs.configure(runs.load_method(method), {"batch": 32, "epochs": 1, **settings})
    return runs.Run(method, "vit_w32", 16, 8, 1, "digits", dataclasses.asdict(config), "32", results=str(folder))


def test_the_start_is_what_the_loop_starts_from(tmp_path):
    data, started = load_dataset("digits"), runtime.start("cpu")
    for method in ("dino", "supervised"):
        small = {"out_dim": 8, "hidden_dim": 8, "bottleneck_dim": 8} if method == "dino" else {}
        run = begun(method, tmp_path, seed=3, **small)
        loop = Loop(run, tmp_path / method, started, data)
        found = checkpoints.untrained(run, len(data.classes)).state_dict()
        own = loop.method.student.backbone.state_dict()
        assert found.keys() == own.keys() and all(torch.equal(t, own[name]) for name, t in found.items())


def test_it_is_read_like_any_checkpoint(tmp_path):
    run = begun("supervised", tmp_path, seed=1)
    backbone = checkpoints.untrained(run, 10)
    checkpoints.save_untrained(tmp_path / "start.pth", backbone, run.image_size)
    info = load_backbone(str(tmp_path / "start.pth")).info
    assert info.arch == "vit_w32_d1_patch8" and info.method == "random" and info.embed_dim == 32
