"""`dinobench suite` as typed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
import typer.main
from helpers.samples import record
from helpers.typed import assert_one_line

from dinobench.cli.app import app
from dinobench.cli.options import LOADING
from dinobench.results import records
from dinobench.suite import builtin
from dinobench.suite.checking import MODEL, TOP
from dinobench.suite.file import Compute
from dinobench.suite.run_table import KEYS
from dinobench.types import LoadOptions

TEXT = """\
[models]
pixels = "pixels:2"
tiny = "pixels:4"
[[run]]
protocol = "knn"
set = { resize = 8, crop = 8 }
[[run]]
protocol = "attention"
data = "shapes"
"""
PLAN = """\
state           protocol   profile                   data    model      time  why
to do           knn        dino2021+crop=8+resize=8  digits  pixels  unknown
to do           knn        dino2021+crop=8+resize=8  digits  tiny    unknown
not applicable  attention  dino2021                  shapes  pixels           no attention
not applicable  attention  dino2021                  shapes  tiny             no attention

4 cells: 2 to do, 2 not applicable; 2 tasks, 2 cells of unknown duration on one device
"""


@pytest.fixture
def text(tmp_path, own_cache):
    (tmp_path / "s.toml").write_text(TEXT)
    return TEXT


def test_a_plan_is_a_table_of_cells(command, text):
    code, out, err = command("suite", "plan", "s.toml")
    assert code == 0 and out == PLAN, err


def test_a_plan_says_which_precision_where_it_is_not_the_usual(command, text, tmp_path):
    (tmp_path / "s.toml").write_text(text + '[[run]]\nprotocol = "knn"\ncompute = { precision = "bf16" }\n')
    code, out, _ = command("suite", "plan", "s.toml", "--ckpt", "tiny=pixels:2")
    told = [line.partition("s  ")[2].split()[:2] for line in out.splitlines()[1:4]]
    assert code == 0 and told == [["32", "tiny"], ["32", "tiny"], ["bf16", "tiny"]] and " precision " in out


#: What `dinobench run` takes and a suite says under another name, or leaves to whoever runs it.
NAMED = {"ckpt": "models", "protocol": "protocol", "data": "data", "test": "tests", "profile": "profile", "set_": "set",
         "limit": "limit", "out": "out", "seed": "seeds"}  # fmt: skip
LEFT = {"json", "track", "force", "save", "device", "devices"}


def test_a_suite_can_say_what_a_run_can():
    options = {parameter.name for parameter in typer.main.get_command(app).commands["run"].params}
    assert options == {*NAMED, *LEFT, *LOADING, *(field.name for field in dataclasses.fields(Compute))}
    assert {*LOADING} == {field.name for field in dataclasses.fields(LoadOptions)}
    assert {*MODEL} == {"path", *LOADING} and {*NAMED.values()} <= {*KEYS, *TOP}


def test_only_who_types_lets_strangers_code_run(command, text, monkeypatch):
    def load(*args, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(torch.hub, "load", load)
    line = ("suite", "plan", "s.toml", "--ckpt", "torchhub:a/b:c")
    code, _, err = command(*line)
    assert code == 2 and "say --trust-repo" in err
    code, _, err = command(*line, "--trust-repo")
    assert code == 2 and "could not be made" in err


def test_a_plan_says_which_tasks_ask_for_several_devices(command, text, tmp_path):
    (tmp_path / "s.toml").write_text(text + "[resources]\nknn = { devices = 2 }\n")
    code, out, err = command("suite", "plan", "s.toml")
    assert code == 0 and out.startswith(PLAN), err
    said = " ".join(out.removeprefix(PLAN).split())
    assert said.startswith("2 of the tasks ask for 2 devices at once: here `suite run` gives them as many as there are")


def test_a_plan_for_programs(command, text, tmp_path):
    code, out, _ = command("suite", "plan", "s.toml", "--json", "--out", "elsewhere")
    told = json.loads(out)
    assert code == 0 and told["out"] == "elsewhere" and told["states"] == {"to do": 2, "not applicable": 2}
    assert [cell["key"] for cell in told["cells"][:2]] == [key for task in told["tasks"] for key in task["cells"]]
    run_id = told["cells"][0]["run_ids"][0]
    records.write(tmp_path / "elsewhere", record(run_id, duration_s=60.0), None)
    code, out, _ = command("suite", "plan", "s.toml", "--out", "elsewhere")
    assert code == 0 and out.splitlines()[1].split()[:1] == ["done"] and "1 min" in out


def test_mistakes_are_lines_on_stderr(command, text, tmp_path):
    (tmp_path / "s.toml").write_text(text.replace("knn", "kmn"))
    code, out, err = command("suite", "plan", "s.toml")
    assert_one_line(code, out, err, "s.toml:5: [[run]] 1 protocol: unknown protocol 'kmn': did you mean 'knn'?")
    (tmp_path / "s.toml").write_text(text.replace("knn", "kmn").replace("shapes", "shape"))
    code, out, err = command("suite", "plan", "s.toml")
    assert code == 2 and not out and [line.split(": ")[1] for line in err.splitlines()] == ["s.toml:5", "s.toml:9"]


def test_what_is_missing_is_told_below_the_plan(command, text, tmp_path):
    code, out, err = command("suite", "plan", "s.toml", "--ckpt", "gone.pth", "--ckpt", "pixels:2")
    assert code == 2 and "2 to do" not in out and "input missing" in out
    assert [line for line in err.splitlines() if line.startswith("error")] == [
        "error: --ckpt: gone.pth: no such file; check the path (a timm model is written timm:NAME)"
    ]


def test_more_hours_than_allowed_are_refused(command, text, tmp_path, monkeypatch):
    from dinobench.suite.cells import Plan

    monkeypatch.setattr(Plan, "seconds", 9000.0)
    assert command("suite", "plan", "s.toml", "--max-hours", "3")[0] == 0
    code, out, err = command("suite", "plan", "s.toml", "--max-hours", "2")
    assert code == 2 and out == PLAN and "error: s.toml: 2.5 h are to do, above --max-hours 2" in err


def test_typos_on_the_command_line(command, text):
    assert_one_line(*command("suite", "plan", "smok"), "did you mean 'smoke'?")
    assert_one_line(*command("suite", "show", "smok"), "did you mean 'smoke'?")
    code, out, err = command("suite", "plan", "s.toml", "--limit", "0")
    assert code == 2 and not out and "--limit" in err


def test_a_built_in_suite_is_shown_as_it_is(command):
    code, out, _ = command("suite", "show", "dino2021")
    assert code == 0 and out == builtin.text_of("dino2021")


def test_built_in_suites_are_listed(command):
    code, out, _ = command("suite", "list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()[1:]] == builtin.names()


def test_a_plan_of_what_is_remembered_imports_nothing_heavy(command, text, tmp_path):
    assert command("suite", "plan", "s.toml")[0] == 0
    code = (
        "import atexit, sys; atexit.register(lambda: print('HEAVY', {'torch', 'timm', 'pandas'} & set(sys.modules)));"
        "sys.argv = ['dinobench', 'suite', 'plan', 's.toml']; from dinobench.cli import main; main()"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path, env=dict(os.environ))
    assert done.stdout.rstrip().endswith("HEAVY set()"), done.stdout


def test_a_plan_of_a_scale_lists_trainings(command, tmp_path, own_cache):
    text = 'scale = "a"\n[scales.a]\ntrain = { epochs = 2 }\n[scales.b]\nout = "b"\ntrain = { epochs = 3 }\n'
    text += '[train]\ndata = "digits"\narch = "vit_w32"\ndepth = 1\nimage_size = 16\n'
    text += '[train.sup]\nmethod = "supervised"\n[[run]]\nprotocol = "knn"\ndata = "digits"\n'
    (tmp_path / "s.toml").write_text(text)
    code, out, err = command("suite", "plan", "s.toml", "--scale", "b")
    lines = out.splitlines()
    assert code == 0 and " ".join(lines[1].split()) == "to do knn dino2021 digits sup unknown trains sup first", err
    assert lines[3].split() == ["training", "method", "epochs", "time", "why"]
    assert lines[4].split() == ["sup", "supervised", "0", "of", "3", "unknown"]
    code, out, err = command("suite", "plan", "s.toml", "--scale", "c")
    assert_one_line(code, out, err, "unknown scale 'c'")
