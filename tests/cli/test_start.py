"""What each command imports: a property of its source, where seconds would be one of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
from helpers.reports import made

from dinobench.registry import available
from dinobench.results import records
from dinobench.types import MetricValue

HEAVY = (
    "torch", "torchvision", "timm", "pandas", "scipy", "sklearn", "pyarrow", "matplotlib", "cv2", "lightning_fabric",
    "faiss", "safetensors",
)  # fmt: skip
CODE = """
import atexit, sys
heavy = sys.argv.pop().split()
atexit.register(lambda: print("HEAVY", *[m for m in heavy if m in sys.modules]))
from dinobench.cli import main
main()
"""


def heavy(*arguments: str, code: int = 0) -> list[str]:
    """The heavy modules that a command has imported when it ends."""
    line = [sys.executable, "-c", CODE, *arguments, " ".join(HEAVY)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == code, done.stderr
    return done.stdout.rstrip().splitlines()[-1].split()[1:]


#: Of many commands one after another, [exit code, heavy modules that it is the first to import], to a file.
IN_TURN = """
import json, sys
lines, heavy, found = json.load(open(sys.argv[1])), set(sys.argv[2].split()), []
from dinobench.cli import main
for line in lines:
    before, code, sys.argv = heavy & set(sys.modules), 0, ["dinobench", *line]
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    found.append([code, sorted(heavy & set(sys.modules) - before)])
json.dump(found, open({found!r}, "w"))
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """`light(*arguments)`: (exit code, heavy modules imported) of each of LIGHT, all of them typed in one process."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "lines").write_text(json.dumps(LIGHT))
    code = IN_TURN.replace("{found!r}", repr(str(folder / "found.json")))
    line = [sys.executable, "-c", code, str(folder / "lines"), " ".join(HEAVY)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    found = dict(zip(LIGHT, json.loads((folder / "found.json").read_text()), strict=True))
    return lambda *arguments: tuple(found[arguments])


@pytest.fixture
def results(tmp_path):
    for model, right in (("dino", [1.0, 1.0, 0.0, 1.0]), ("byol", [1.0, 0.0, 0.0, 1.0])):
        value = MetricValue(100 * sum(right) / 4, None, None, 4, "%")
        run = made(model, 1.0)
        run = type(run)(**{**vars(run), "metrics": {"top1@k20": value}})
        items = pd.DataFrame({"id": list("abcd"), "label": list("xxyy"), "top1@k20": right})
        records.write(tmp_path / "results", run, items)
    return tmp_path / "results"


HELP = (("--help",), ("--version",), ("run", "--help"), ("cache", "ls"))
LISTINGS = ("protocols", "profiles", "layouts", *available())
REFUSED = {
    "protocol": ("run", "--protocol", "knnn", "--ckpt", "pixels"),
    "setting": ("run", "--protocol", "knn", "--ckpt", "pixels", "--set", "kk=1"),
    "value": ("run", "--protocol", "knn", "--ckpt", "pixels", "--set", "k=x"),
    "profile": ("run", "--protocol", "knn", "--ckpt", "pixels", "--profile", "dino2022"),
    "checkpoint": ("run", "--protocol", "knn", "--ckpt", "nowhere.pth"),
    "named checkpoint": ("run", "--protocol", "knn", "--ckpt", "a=nowhere.pth"),
    "data": ("run", "--protocol", "linear", "--ckpt", "pixels", "--data", "nowhere"),
    "device": ("run", "--protocol", "knn", "--ckpt", "pixels", "--device", "gpu"),
    "precision": ("run", "--protocol", "knn", "--ckpt", "pixels", "--precision", "31"),
    "inspected": ("inspect", "nowhere.pth"),
    "method": ("pretrain", "--method", "dinoo", "--data", "digits", "--out", "x"),
    "images": ("pretrain", "--method", "dino", "--data", "nowhere", "--out", "x"),
    "listing": ("list", "knnn"),
    "bench": ("bench", "nothing"),
    "results": ("compare", "nowhere"),
}
LIGHT = (*HELP, *(("list", what) for what in LISTINGS), *REFUSED.values())


@pytest.mark.parametrize("arguments", HELP)
def test_help_imports_nothing_heavy(light, arguments):
    assert light(*arguments) == (0, [])


@pytest.mark.parametrize("what", LISTINGS)
def test_listings_import_nothing_heavy(light, what):
    assert light("list", what) == (0, [])


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_typos_and_missing_files_are_told_before_anything_heavy_is_imported(light, arguments):
    assert light(*arguments) == (2, [])


@pytest.mark.parametrize("what", ["methods", "dino"])
def test_methods_are_listed_without_what_makes_backbones(what):
    assert not {"timm", "torchvision", "sklearn", "pandas", "lightning_fabric"} & set(heavy("list", what))


def test_records_are_listed_without_torch_and_again_without_reading_items(results, tmp_path):
    page = str(tmp_path / "page.html")
    commands = [("compare",), ("leaderboard",), ("report", "-o", page)]
    for name, *options in commands:
        assert not {"torch", "timm", "torchvision", "sklearn", "matplotlib"} & set(heavy(name, str(results), *options))
    assert not {"torch", "timm", "torchvision"} & set(heavy("check", str(results)))
    assert not {"torch", "timm"} & set(heavy("gate", str(results), "--baseline", str(results)))
    for path in (results / "items").iterdir():  # as if written a while ago
        os.utime(path, ns=(time.time_ns() - 10**10,) * 2)
    time.sleep(2.1)  # of its other times, which nobody can set
    for name, *options in commands:
        heavy(name, str(results), *options)
    for name, *options in commands:
        assert heavy(name, str(results), *options) == []


def test_a_finished_run_says_so_without_torch(tmp_path):
    line = ("run", "--protocol", "knn", "--ckpt", "pixels:2", "--out", str(tmp_path / "r"), "--set", "resize=8",
            "--set", "crop=8")  # fmt: skip
    assert "torch" in heavy(*line)
    time.sleep(2.1)
    heavy(*line)
    assert heavy(*line) == []
