"""`dinobench pretrain` as typed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from helpers.pretraining import TINY

from dinobench.pretrain import checkpoints
from dinobench.results.records import read_all

LIKE = ("--arch", "vit_tiny", "--depth", "1", "--patch-size", "8", "--image-size", "16", "--device", "cpu")
TYPED = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]


def test_the_command(command, tmp_path):
    new = ("pretrain", "--method", "dino", "--data", "digits", "--out", "runs/tiny", *LIKE, *TYPED, "--batch", 512)
    code, _, err = command(*new, "--eval", "knn", "--every", 1)
    assert code == 0, err
    assert "epoch 2/2: loss" in err and "knn/teacher/top1@k20" in err
    records, broken = read_all(tmp_path / "results")
    assert not broken and {(r.checkpoint.name, r.checkpoint.epoch) for r in records} == {
        (f"tiny-e00{e}-{n}", e) for e in (1, 2) for n in ("teacher", "student")
    }
    assert {(r.checkpoint.method, r.checkpoint.arch) for r in records} == {("dino", "vit_w192_d1_patch8")}
    assert all((r.config["resize"], r.config["crop"]) == (18, 16) for r in records)

    code, _, err = command(*new)
    assert code == 2 and "holds a training run (dino on digits); `dinobench pretrain --resume runs/tiny`" in err
    code, _, err = command("pretrain", "--resume", "runs/tiny")
    assert code == 0, err  # nothing is left to do
    for key in ("student", "teacher"):
        code, _, err = command("run", "--protocol", "knn", "--ckpt", f"{key}=runs/tiny/checkpoint.pth", "--key", key,
                             "--set", "resize=16", "--set", "crop=16", "--set", "k=1")  # fmt: skip
        assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--method, --data and --out are needed"),
        (("--method", "dyno", "--data", "digits", "--out", "x"), "did you mean 'dino'"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--set", "outdim=3"), "did you mean 'out_dim'"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--eval", "kn"), "did you mean 'knn'"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--image-size", 20, "--patch-size", 8), "use 16 or"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--batch", 9999), "1347 images"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--arch", "vit_tine"), "no model of that name"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--arch", "resnet18", "--depth", 3), "--depth 3"),
        (("--resume", "nowhere"), "nowhere: no run.json in it"),
        (("--resume", "x", "--epochs", 3), "keeps its own settings"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--precision", "16"), "bf16 or 32"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, words, command):
    code, _, err = command("pretrain", "--device", "cpu", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1, err


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_saves(tmp_path):
    arguments = [sys.executable, "-m", "dinobench", "pretrain", "--method", "dino", "--data", "digits", "--out", "run",
                 *LIKE, *TYPED, "--epochs", "500", "--set", "epochs=500"]  # fmt: skip
    started = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for line in started.stderr:
        if line.startswith("epoch "):
            break
    started.send_signal(signal.SIGINT)
    err = started.stderr.read()
    assert started.wait() == 130 and "`dinobench pretrain --resume run` goes on" in err
    assert checkpoints.read(tmp_path / "run" / "checkpoint.pth")["dinobench"]["step"] > 0
