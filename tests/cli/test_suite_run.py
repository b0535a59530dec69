"""`dinobench suite run`, `retry` and `status` as typed."""

from __future__ import annotations

import json

import pytest
from helpers.suites import plug_in, unsound
from helpers.typed import assert_one_line


@pytest.fixture(autouse=True)
def plugged_in(tmp_path, monkeypatch):
    plug_in(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_run_status_and_retry(command, tmp_path):
    unsound(tmp_path, "not", "fault", "input", retries=0)
    line = ("unsound.toml", "--out", "out")
    code, out, err = command("suite", "run", *line, "--device", "cpu")
    assert code == 1
    assert out.count("unsound · default") == 1 and "pixels2" in out and "100.0" in out
    assert "[1/3] unsound · digits of floor: done in" in err
    assert "warning: [2/3] unsound · digits of floor: failed: PluginFault" in err
    assert "warning: [3/3] unsound · digits of floor: failed: image 7 is broken: mend it" in err
    assert err.endswith("unsound: 1 of 3 cells done, 2 failed; records and leaderboard.csv are in out/\n")
    code, out, err = command("suite", "status", *line)
    assert code == 0 and "unsound: 1 of 3 cells done, 2 failed" in out and "100.0 floor" in out
    found = json.loads(command("suite", "status", *line, "--json")[1])
    assert found["count"]["failed"] == 2 and sorted(c["kind"] for c in found["cells"]) == ["", "fault", "input"]
    assert "| unsound | default+" in command("suite", "status", *line, "--markdown")[1]
    (tmp_path / "marks" / "mended").write_text("")
    code, _, err = command("suite", "retry", *line, "--device", "cpu")
    marks = sorted(p.name for p in (tmp_path / "marks").iterdir())
    assert code == 1 and marks == ["fault-0-None", "fault-1-None", "input-0-None", "mended", "not-0-None"]


def test_nothing_to_do_and_nothing_to_retry(command, tmp_path, monkeypatch):
    from dinobench.suite.plan import plan
    from dinobench.suite.task import run_task, write_tasks

    suite = unsound(tmp_path, "not")
    for path in write_tasks(plan(suite)):
        run_task(path, "cpu")
    line = ("unsound.toml", "--out", "out")
    code, out, err = command("suite", "run", *line)
    assert (code, out) == (0, "") and "unsound: 1 of 1 cells done" in err
    code, out, err = command("suite", "retry", *line)
    assert (code, out) == (0, "") and "no cell has failed" in err
    code, out, err = command("suite", "status", *line, "--watch")
    assert code == 0 and "1 of 1 cells done" in out


def test_missing_inputs_end_with_a_line_each(command, tmp_path):
    (tmp_path / "s.toml").write_text('[models]\na = "pixels:2"\n[[run]]\nprotocol = "sound"\ndata = "nowhere"\n')
    code, out, err = command("suite", "run", "s.toml")
    assert (code, out) == (2, "") and err.count("error: ") == 1 and "s.toml:5" in err and "nowhere" in err


@pytest.mark.parametrize(("arguments", "words"), [
    (("status", "unsound.toml", "--json", "--markdown"), "--json and --markdown: one of them"),
    (("status", "unsound.toml", "--watch", "--json"), "--watch shows a suite to people"),
    (("run", "nowhere.toml"), "nowhere.toml: no such file"),
    (("run", "unsound.toml", "--processes", "0"), "--processes"),
])  # fmt: skip
def test_bad_input_is_one_line(command, tmp_path, arguments, words):
    unsound(tmp_path, "not")
    assert_one_line(*command("suite", *arguments), words)
