from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.folders import grow

from dinobench.cli.app import app
from dinobench.cli.arguments import commands

SMALL = ("--ckpt", "pixels:8", "--set", "resize=32", "--set", "crop=32", "--set", "k=1", "--device", "cpu")


def test_every_command_is_reached():
    names = {words for words, _ in commands(app)}
    assert {("run",), ("compare",), ("cache", "prune"), ("score", "davis"), ("visualize", "attention")} <= names


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("run", "--protocol", "knn", *SMALL, "--out", "a", "--out", "b"), "--out"),
        (("run", "--protocol", "knn", *SMALL, "--out=a", "--out", "b"), "--out"),
        (("run", "--protocol", "knn", *SMALL, "--limit", "9", "--limit=8"), "--limit"),
        (("visualize", "attention", "x.jpg", "--ckpt", "a", "--ckpt", "b"), "--ckpt"),
        (("compare", "-o", "a.csv", "--output", "b.csv"), "--output"),
    ],
)
def test_an_option_that_would_be_dropped_is_refused(command, arguments, option):
    code, _, err = command(*arguments)
    assert code == 2 and f"{option} is given 2 times and takes one value" in err and err.count("\n") == 1


def test_options_that_add_up_may_be_repeated(command, tmp_path):
    code, _, err = command("run", "--protocol", "knn", *SMALL, "--ckpt", "pixels:4", "--out", tmp_path)
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--protocol", "knn", *SMALL, "--ram-cache", "inf"), "inf is no finite number"),
        (("run", "--protocol", "knn", *SMALL, "--ram-cache", "nan"), "Invalid value for '--ram-cache'"),
        (("run", "--protocol", "knn", *SMALL, "--data", "~nobody-of-this-name/x"), "no home folder of that user"),
        (("run", "--protocol", "knn", *SMALL, "--out", "~nobody-of-this-name/x"), "no home folder of that user"),
        (("run", "--protocol", "knn", *SMALL, "--ckpt", "~nobody-of-this-name/x"), "no home folder of that user"),
        (("run", "--protocol", "knn", *SMALL, "--ckpt", "a/" * 3000), "File name too long"),
        (("run", "--protocol", "knn", *SMALL, "--data", "a" * 5000), "no such file or folder"),
        (("run", "--protocol", "knn", *SMALL, "--out", "a" * 5000), "cannot write results"),
        (("run", "--protocol", "knn", "--ckpt", "pixels", "--set", "resize=99999999"), "between 1 and 16,384 pixels"),
        (("cache", "prune", "--days", "nan"), "Invalid value for '--days'"),
        (("data", "make-copies", "a", "b", "--seed", "-1"), "Invalid value for '--seed'"),
    ],
)
def test_bad_values_are_one_line(command, arguments, words):
    code, _, err = command(*arguments)
    assert code == 2 and words in err and err.count("\n") == 1, err


def typed(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "dinobench", *map(str, arguments)],
        cwd=cwd, env={**cleared, **environment}, capture_output=True, encoding="utf-8", errors="replace",
    )  # fmt: skip


def test_a_tilde_is_ones_home_in_every_path(tmp_path):
    done = typed("run", "--protocol", "knn", *SMALL, "--out=~/results", cwd=tmp_path, HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "results" / "leaderboard.csv").exists() and not (tmp_path / "~").exists()


def test_a_locale_without_the_letters_of_a_name_is_no_fault_of_the_file(tmp_path):
    images = [f"{split}/{name}/é{i}.png" for split in ("train", "val") for name in ("chêne", "pin") for i in range(2)]
    grow(tmp_path / "arbres", *images)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = typed("run", "--protocol", "knn", *SMALL, "--data", "arbres", "--out", "out", cwd=tmp_path, **plain)
    assert done.returncode == 0, done.stderr
    shown = typed("compare", "out", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert shown.returncode == 0, shown.stderr
