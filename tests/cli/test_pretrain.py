"""`dinobench pretrain` as typed."""

from __future__ import annotations

import json
import os
import signal

import pytest
from helpers.forked import Command
from helpers.images import damage, write_images
from helpers.pretraining import TINY

from dinobench.pretrain import checkpoints
from dinobench.results.records import read_all

LIKE = ("--arch", "vit_tiny", "--depth", "1", "--patch-size", "8", "--image-size", "16", "--device", "cpu")
TYPED = [
    part for name, value in TINY.items() if name not in ("epochs", "batch") for part in ("--set", f"{name}={value}")
]


def test_the_command(command, tmp_path):
    new = (
        "pretrain",
        "--method",
        "dino",
        "--data",
        "digits",
        "--out",
        "runs/tiny",
        *LIKE,
        *TYPED,
        "--epochs",
        2,
        "--batch",
        512,
    )
    code, _, err = command(*new, "--eval", "knn", "--every", 1)
    assert code == 0, err
    assert "epoch 2/2: loss" in err and "knn/teacher/top1@k20" in err
    assert err.count("before the first step: knn/teacher/top1@k20 ") == 1
    records, broken = read_all(tmp_path / "results")
    assert not broken and {(r.checkpoint.name, r.checkpoint.epoch) for r in records} == {
        (f"tiny-e00{e}-{n}", e) for e in (0, 1, 2) for n in ("teacher", "student") if (e, n) != (0, "teacher")
    }
    first = json.loads((tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["epoch"] == first["step"] == 0 and first["knn/teacher/top1@k20"] == first["knn/student/top1@k20"] > 0
    assert (tmp_path / "runs" / "tiny" / "curves.png").exists()
    code, _, err = command("visualize", "collapse", "runs/tiny", "-o", "collapse.png")
    assert code == 0, err
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
        (("--resume", "x", "--epochs", 3), "keeps its own settings; leave --epochs out"),
        (("--resume", "x", "--every", 3, "--eval-data", "y"), "keeps its own settings; leave --every, --eval-data out"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--eval-data", "digits"), "without --eval PROTOCOL"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--batch", 8, "--set", "batch=9"), "give one of them"),
        (("--method", "dino", "--data", "digits", "--out", "x", "--precision", "16"), "bf16 or 32"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, words, command):
    code, _, err = command("pretrain", "--device", "cpu", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1, err


NEW = ("pretrain", "--method", "dino", *LIKE, *TYPED, "--epochs", 1, "--batch", 8)


@pytest.mark.parametrize("tree", ["{}.png", "deep/{}/er.png", "train/{}.png", "train/all/{}.png"])
def test_images_need_no_labels_no_classes_and_no_val(tree, command, tmp_path):
    write_images(tmp_path / "in", [tree.format(i) for i in range(10)])
    code, _, err = command(*NEW, "--data", "in", "--out", "run")
    assert code == 0 and (tmp_path / "run" / "checkpoint.pth").exists(), err


def test_a_table_without_labels(command, tmp_path):
    names = [f"{i}.png" for i in range(10)]
    write_images(tmp_path / "in", names)
    (tmp_path / "in" / "list.csv").write_text("\n".join(["path", *names]))
    code, _, err = command(*NEW, "--data", "in/list.csv", "--out", "run")
    assert code == 0, err
    code, _, err = command("pretrain", "--method", "supervised", "--data", "in/list.csv", "--out", "other", *LIKE)
    assert code == 2 and "in/list.csv: has no labels, and --method supervised" in err and err.count("\n") == 1


def test_scoring_needs_a_labelled_set(command, tmp_path):
    write_images(tmp_path / "in", [f"train/all/{i}.png" for i in range(10)])
    write_images(tmp_path / "set", [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "ab" for i in range(2)])
    code, _, err = command(*NEW, "--data", "in", "--out", "run", "--eval", "knn")
    assert code == 2 and "--eval knn: in: has train/ but no val/" in err and "with --eval-data" in err
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()
    code, _, err = command(*NEW, "--data", "in", "--out", "run", "--eval", "knn", "--eval-data", "nowhere")
    assert code == 2 and "nowhere: no such file or folder" in err and "give another --eval-data" in err
    scored = ("--eval", "knn", "--eval-data", "set", "--eval-set", "k=1")
    code, _, err = command(*NEW, "--data", "in", "--out", "run", *scored)
    assert code == 0 and "knn/teacher/top1@k1" in err, err
    records, _ = read_all(tmp_path / "results")
    assert {r.dataset for r in records} == {"set"} and len(records) == 3  # one of them before the first step


def test_damaged_images_are_found_first_and_may_be_left_out(command, tmp_path):
    write_images(tmp_path / "in", [f"{i:02d}.png" for i in range(20)])
    for name in ("03.png", "11.png"):
        damage(tmp_path / "in" / name)
    code, _, err = command(*NEW, "--data", "in", "--out", "run")
    assert code == 2 and "2 of 20 images of in cannot be read: 03.png, 11.png" in err and "repair or delete them" in err
    code, _, err = command(*NEW, "--data", "in", "--out", "run", "--skip-broken")
    assert code == 0 and "2 (03.png, 11.png) of 20 images cannot be read and are left out" in err
    (tmp_path / "in" / "03.png").unlink()
    code, _, err = command("pretrain", "--resume", "run")
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2"])
def test_signals_to_all_processes_save(number, workers, tmp_path):
    """As a terminal or a scheduler sends them: to the training and its workers alike."""
    line = ["pretrain", "--method", "dino", "--data", "digits", "--out", "run", *LIKE, *TYPED, "--epochs", "500",
            "--batch", "32", *(("--workers", "1") if workers else ())]  # fmt: skip
    with Command(tmp_path, *line) as started:
        started.wait_for(lambda: "epoch " in started.err)
        os.killpg(started.pid, signal.Signals[number])
        code, err = started.wait(), started.err
    assert code == 128 + signal.Signals[number], err
    assert "`dinobench pretrain --resume run` goes on" in err
    assert checkpoints.read(tmp_path / "run" / "checkpoint.pth")["dinobench"]["step"] > 0


def test_a_results_folder_that_cannot_be_written_is_found_before_the_first_step(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command(
        "pretrain", "--method", "dino", "--data", "digits", "--out", "out", "--results", "file/results", *LIKE, *TYPED
    )
    assert code == 2 and "file/results/training: cannot be written: " in err and "epoch" not in err
