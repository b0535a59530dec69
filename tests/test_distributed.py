"""Two processes on the CPU give what one gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.forked import two_processes, typed
from helpers.gathering import gather
from helpers.summing import sums
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinobench.distributed import UNEVEN, EarlySums, owners, sum_gradients
from dinobench.results.items import read_items
from dinobench.results.records import read_all

pytestmark = pytest.mark.slow
KNN = (
    "run", "--protocol", "knn", "--ckpt", "random:vit_tiny_patch16_224", "--ckpt", "pixels", "--device", "cpu",
    "--set", "resize=32", "--set", "crop=32", "--json",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dinobench")


def command(folder, *arguments):
    """A run with a cache of its own, one thread a process."""
    folder.mkdir(exist_ok=True)
    environ = {**os.environ, "DINOBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=300
    )
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    code, out, err = typed(folder, *KNN, DINOBENCH_CACHE=str(folder / "cache"))
    assert code == 0, err
    return folder, json.loads(out)


@pytest.mark.parametrize(
    "launch", [("-m", "dinobench", *KNN, "--devices", "2"), (*TORCHRUN, *KNN)], ids=["devices", "torchrun"]
)
def test_two_processes_equal_one(launch, alone, tmp_path):
    folder, expected = alone
    done = command(tmp_path / "two", *launch)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # printed once, by the first process alone
    assert [r["processes"] for r in found] == [2, 2]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["run_id"] == theirs["run_id"]
        for name, metric in theirs["metrics"].items():
            assert ours["metrics"][name]["value"] == pytest.approx(metric["value"], abs=100 / 450 + 1e-9), name
    written, broken = read_all(tmp_path / "two" / "results")
    assert len(written) == 2 and not broken
    for record in written:
        one, two = (read_items(f / "results", record) for f in (folder, tmp_path / "two"))
        assert one is not None and two is not None and list(one.id) == list(two.id)
        same = (one["prediction@k20"] == two["prediction@k20"]).mean()
        assert same >= 449 / 450  # float32 sums of other batch sizes may turn over one near tie
    boards = [(f / "results" / "leaderboard.csv").read_text() for f in (folder, tmp_path / "two")]
    assert boards[0].count("\n") == boards[1].count("\n")
    assert "Initializing distributed" not in done.stderr

    again = command(tmp_path / "two", *launch)
    assert again.returncode == 0 and json.loads(again.stdout) == found
    assert again.stderr.count("finished before") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nosuch"), "nosuch: no such file"),
        (("--data", "images"), "images of val cannot be read: val/a/3.png"),
    ],
)
def test_an_error_of_one_process_ends_them_all_and_is_printed_once(tmp_path, arguments, words):
    for split, name in ((s, n) for s in ("train", "val") for n in "ab"):
        folder = tmp_path / "two" / "images" / split / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 40), (i * 60, 50 * (name == "a"), 9)).save(folder / f"{i}.png")
    (tmp_path / "two" / "images" / "val" / "a" / "3.png").write_bytes(b"no image")
    done = command(tmp_path / "two", "-m", "dinobench", *KNN, "--devices", "2", *arguments)
    assert done.returncode == 2 and not done.stdout
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == 1 and words in done.stderr


def test_processes_leave_the_group_before_the_interpreter_ends(tmp_path):
    """gloo's threads, left running, now and then abort a process that has finished its work."""
    script = tmp_path / "leave.py"
    script.write_text(
        "import atexit, os, torch\n"
        "told = lambda: b'in ' if torch.distributed.is_initialized() else b'left '\n"
        "atexit.register(lambda: os.write(1, told()))\n"
        "from dinobench import runtime\n"
        "runtime.start('cpu').gather(torch.zeros(2))\n"
        "assert torch.distributed.is_initialized()\n"
    )
    done = command(tmp_path, *TORCHRUN[:-2], str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["left", "left"]


def test_sums_over_processes(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model[0].weight.grad = torch.ones(2, 2)
    model[1].running_mean.fill_(3.0)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.mul_(2))  # another process just alike
    totals = sum_gradients(model, torch.tensor([1.5, 4.0]), processes=2)
    assert totals.tolist() == [3.0, 8.0] and model[0].weight.grad.unique().tolist() == [2.0]
    assert model[0].bias.grad.unique().tolist() == [0.0] and model[1].running_mean.tolist() == [3.0, 3.0]
    assert sum_gradients(model, totals, processes=1) is totals


def test_sums_begun_in_backward_are_those_of_one_reduction(tmp_path):
    """Bit for bit, with parts, a parameter that nobody uses, and a process without images."""
    two_processes(sums, str(tmp_path))


def test_one_process_sums_nothing():
    layer = torch.nn.Linear(2, 2)
    early = EarlySums(list(layer.parameters()), processes=1)
    with early.during():
        layer(torch.ones(1, 2)).sum().backward()
    early.finish()
    assert layer.weight.grad.unique().tolist() == [1.0]


def test_rows_of_any_number_and_type_are_gathered(tmp_path):
    two_processes(gather, str(tmp_path))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), st.integers(1, 6))
def test_kinds_stay_whole_or_the_longest_part_is_short(sizes, processes):
    kinds = np.repeat(np.arange(len(sizes)), [n for n, _ in sizes])
    cost = np.repeat([c for _, c in sizes], [n for n, _ in sizes])
    owner = owners(cost, kinds.tolist(), processes)
    assert owner.min() >= 0 and owner.max() < processes
    even = cost.sum() / processes
    longest = np.bincount(owner, cost).max()
    if all(len(set(owner[kinds == kind])) == 1 for kind in set(kinds)):
        assert longest <= UNEVEN * (even + cost.max()) or (np.diff(owner) >= 0).all()
    else:
        assert (np.diff(owner) >= 0).all() and longest <= even + cost.max()
