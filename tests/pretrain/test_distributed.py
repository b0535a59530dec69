"""Two processes train as one does on the same total batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.forked import typed, typed_by_two

from dinobench.pretrain import checkpoints

pytestmark = pytest.mark.slow
TRAIN = (
    "pretrain", "--method", "dino", "--data", "digits", "--out", "run", "--arch", "vit_tiny", "--depth", "1",
    "--patch-size", "8", "--image-size", "16", "--device", "cpu", "--precision", "32",
    "--epochs", "1", "--batch", "448",
    "--set", "out_dim=32", "--set", "hidden_dim=16", "--set", "bottleneck_dim=8", "--set", "local_crops=1",
    "--set", "drop_path=0", "--set", "warmup_epochs=0", "--set", "freeze_last_layer=0",
)  # fmt: skip
# AdamW's first steps go by the signs of gradients, those that are all but zero too: rounding moves its weights by lr.
LINEAR = ("--set", "optimizer=sgd", "--set", "lr=0.5")
NORMED = ("--set", "head_batch_norm=on", "--set", "centering=sinkhorn", "--set", "lr=1e-5")
ALONE = (sys.executable, "-m", "dinobench")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dinobench")


def trained(folder: Path) -> tuple[dict, dict]:
    """What the first three steps gave: the checkpoint and the row of metrics."""
    row = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 3
    return checkpoints.read(folder / "run" / "checkpoint.pth"), row


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    found = {}
    for extra in (LINEAR, NORMED):
        folder = tmp_path_factory.mktemp("alone")
        code, _, err = typed(folder, *TRAIN, *extra)
        assert code == 0, err
        found[extra] = trained(folder)
    return found


@pytest.mark.parametrize(
    ("launch", "extra"),
    [
        ((*TORCHRUN, *TRAIN), LINEAR),
        ((*ALONE, *TRAIN, "--devices", "2"), NORMED),
    ],
    ids=["torchrun", "devices, batch norm and Sinkhorn"],
)
def test_two_processes_equal_one(launch, extra, alone, tmp_path):
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *extra], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and done.stderr.count("written: ") == 1, done.stderr
    state, row = trained(tmp_path)
    expected, expected_row = alone[extra]
    for name in ("loss", "teacher_entropy", "kl", "grad_norm", "lr"):
        assert row[name] == pytest.approx(expected_row[name], rel=1e-4, abs=1e-4), name
    torch.testing.assert_close(state["dino_loss"]["center"], expected["dino_loss"]["center"], rtol=0, atol=1e-4)
    for key in ("student", "teacher"):
        for name, tensor in expected[key].items():
            torch.testing.assert_close(state[key][name], tensor, rtol=0, atol=1e-4, msg=f"{key} {name}")


def test_two_processes_are_scored_and_resumed(tmp_path):
    scored = ("--eval", "knn", "--every", "1", "--eval-set", "k=1")
    code, _, err = typed_by_two(tmp_path, *TRAIN, *scored)
    assert code == 0 and err.count("written: ") == 1, err
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 3  # one of them before the first step
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1] and (tmp_path / "run" / "curves.png").exists()
    code, _, err = typed_by_two(tmp_path, "pretrain", "--resume", "run", "--device", "cpu")
    assert code == 0, err
