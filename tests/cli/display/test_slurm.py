"""`dinobench suite run --launcher slurm` as typed, where there is no SLURM."""

from __future__ import annotations

import pytest
from helpers.typed import assert_one_line

SUITE = """
[models]
a = "pixels"
b = "pixels"
[[run]]
protocol = "knn"
data = "digits"
[resources]
default = { devices = 1, cpus = 4, memory = "8GB", hours = 0.5 }
[slurm]
partition = "gpu"
at_once = 2
options = { nice = 5 }
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper.toml").write_text(SUITE)
    return "paper.toml"


def test_a_dry_run_prints_what_sbatch_would_be_asked_and_the_cells(command, suite, tmp_path):
    code, out, err = command("suite", "run", suite, "--launcher", "slurm", "--dry-run")
    assert code == 0, err
    assert out.splitlines() == [
        "a job array: 2 tasks of 2 cells", "  --cpus-per-task=4", "  --gpus-per-node=1", "  --mem=8192M", "  --nice=5",
        "  --partition=gpu", "  --requeue", "  --signal=USR2@120", "  --time=30", "  at most 2 tasks at once",
        "  task 0: knn (dino2021) of a on digits", "  task 1: knn (dino2021) of b on digits",
    ]  # fmt: skip
    assert "nothing was submitted" in err and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--launcher", "slrum"), "unknown launcher 'slrum': did you mean 'slurm'?"),
        (("--dry-run",), "--dry-run: with --launcher slurm"),
        (("--launcher", "slurm", "--processes", "2"), "--processes: leave it out with --launcher slurm"),
        (("--launcher", "slurm", "--device", "cpu"), "--device: leave it out with --launcher slurm"),
    ],
)
def test_options_that_do_not_go_together_are_refused_first(command, options, words):
    code, out, err = command("suite", "run", "nowhere.toml", *options)
    assert_one_line(code, out, err, words)


def test_where_there_is_no_slurm_one_line_says_so(command, suite, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, err = command("suite", "run", suite, "--launcher", "slurm")
    assert code == 2 and err.splitlines()[-1].startswith("error: sbatch: no such command here"), err
