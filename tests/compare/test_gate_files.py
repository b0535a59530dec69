"""The gate's files for CI, and the workflows that docs/gate.md shows."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from helpers.gates import flipped, other_weights
from helpers.paths import ROOT
from helpers.runs import run
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.compare.gate import FAIL, PASS, UNSURE, UNTESTED, GateReport, GateRow, Unmatched, gate
from dinobench.compare.gate_files import FORMATS, publish, to_json, to_junit, to_markdown, workflow_commands
from dinobench.errors import UserError
from dinobench.results import records
from dinobench.results.items import read_items

PAGE = ROOT / "docs" / "gate.md"


@pytest.fixture
def right():
    return np.random.default_rng(0).random(4000) < 0.8


def test_summary_and_annotations_as_github_takes_them(tmp_path, right):
    run(tmp_path / "old", "a|b", right)
    run(tmp_path / "new", "a|b", flipped(right, 100), checkpoint=other_weights("a|b"))
    report = gate(tmp_path / "new", tmp_path / "old")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    lines = publish(report, {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"})
    text = summary.read_text()
    assert text.startswith("before\n### dinobench gate: fail") and "a&#124;b" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert len(lines) == 1 and lines[0].startswith("::error title=dinobench gate::a|b · knn")
    assert publish(report, {}) == []
    with pytest.raises(UserError, match="GITHUB_STEP_SUMMARY"):
        publish(report, {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "folder")})


def a_row(name: str, verdict: str, low: float | None = -1.0) -> GateRow:
    return GateRow(name, "knn", "dino2021", "digits", "top1", "%", 50, 49, -1, verdict, f"because of {name}", low, 0.5)


def a_report(name: str = "a", **changes: object) -> GateReport:
    """One row of every verdict, and one of everything that is missing."""
    alone = Unmatched(name, "knn", "dino2021", "digits", "images differ")
    fields = {
        "rows": tuple(a_row(name, v) for v in (PASS, UNSURE, UNTESTED, FAIL)), "new": (alone,), "vanished": (alone,),
        "unread": (f"{name}.json: damaged",), "notes": (name,), "only": (name,), **changes,
    }  # fmt: skip
    return GateReport(0.5, 0.05, **fields)


def test_annotations_say_error_where_a_row_fails_or_is_missing():
    levels = [line.split()[0] for line in workflow_commands(a_report())]
    assert levels == ["::warning", "::error", "::error", "::error", "::error"]
    allowed = [line.split()[0] for line in workflow_commands(a_report(allow_missing=True))]
    assert allowed == ["::warning", "::error", "::error", "::notice", "::notice"]
    odd = GateReport(0.5, 0.05, (), vanished=(Unmatched("50 %\nlost", "knn", "p", "d"),))
    assert workflow_commands(odd) == ["::error title=dinobench gate::vanished: 50 %25%0Alost · knn · p · d"]


def test_json_has_all_of_it_and_is_strict():
    row = dataclasses.replace(a_row("m", UNSURE), low=float("-inf"), high=float("nan"))
    report = a_report("ä", rows=(row,))
    read = json.loads(to_json(report), parse_constant=lambda text: pytest.fail(text))
    assert read["verdict"] == "incomplete" and read["exit_code"] == 4 and read["margin"] == 0.5
    assert read["rows"][0]["verdict"] == UNSURE and read["rows"][0]["low"] is read["rows"][0]["high"] is None
    assert read["vanished"][0]["model"] == "ä" and read["unread"] and read["new"] and read["only"] == ["ä"]


def test_junit_counts_what_it_holds():
    root = ET.fromstring(to_junit(a_report()))
    (suite,) = root
    assert suite.attrib | {"time": ""} == root.attrib | {"time": ""}
    assert [suite.get(k) for k in ("tests", "failures", "errors", "skipped")] == ["7", "1", "3", "2"]
    assert len(suite.findall("testcase")) == 7 and suite.find("testcase/failure").get("type") == "fail"
    root = ET.fromstring(to_junit(a_report(allow_missing=True)))
    assert [root[0].get(k) for k in ("failures", "errors", "skipped")] == ["1", "1", "4"]


NAMES = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["]]>", "<a b='\"'>&amp;", "\0\x1b[31m", "\ud800", "\r\n::error::", "|`<b>\\"]
)


@settings(deadline=None, max_examples=100)
@given(NAMES)
def test_any_name_keeps_every_file_whole(name):
    report = a_report(name)
    root = ET.fromstring(to_junit(report).encode("utf-8"))
    case = root.find("testsuite/testcase")
    wanted = "".join(c if c in "\t\n\r" or " " <= c < "\ud800" or c > "\udfff" else "\ufffd" for c in name)
    assert case.get("name").startswith(re.sub("[\ufffe\uffff]", "\ufffd", wanted) + " · knn")
    assert json.loads(to_json(report))["rows"][0]["model"] == name
    table = [line for line in to_markdown(report).splitlines() if line.startswith("|")]
    assert len(table) == 6 and {line.count("|") for line in table} == {11}
    assert not any("\n" in line or "\r" in line for line in workflow_commands(report))


# The page's workflows.


def block(mark: str) -> dict:
    text = PAGE.read_text(encoding="utf-8")
    part = text.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", part, re.S)[1])


def steps(job: str) -> dict:
    return {step.get("name", step.get("uses")): step for step in block("gate-workflow")["jobs"][job]["steps"]}


def bash(step, folder, **environ):
    """A step as GitHub runs it, with `dinobench` on the path."""
    (folder / "bin").mkdir(exist_ok=True)
    shim = folder / "bin" / "dinobench"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m dinobench "$@"\n')
    shim.chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "GITHUB_ACTIONS": "true", **environ}
    environ["PYTHONPATH"] = str(ROOT)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)


def scored(folder: Path, right, **changes: object) -> None:
    """As the workflow's Score step would write it."""
    run(folder, "ours", right, run_id="knn-ours-digits-" + "0" * 10, **changes)


def both_ways(tmp_path: Path) -> list[str]:
    """The gate's command of both workflows."""
    (gitlab,) = (line for line in block("gate-gitlab")["gate"]["script"] if line.startswith("dinobench gate"))
    return [steps("gate")["Gate"]["run"], gitlab]


@pytest.mark.parametrize(("drop", "code", "said"), [(0, 0, ""), (120, 0, "::warning "), (300, 1, "::error ")])
def test_the_workflows_gate_step(tmp_path, right, drop, code, said):
    scored(tmp_path / "main" / "results", right)
    run(tmp_path / "main" / "results", "ours", right, protocol="logreg", run_id="logreg-ours-digits-1")  # not run by CI
    scored(tmp_path / "new" / "results", flipped(right, drop), checkpoint=other_weights("ours"))
    github, gitlab = both_ways(tmp_path)
    done = bash(github, tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout and "### dinobench gate:" in (tmp_path / "summary.md").read_text()
    allowed = block("gate-gitlab")["gate"]["allow_failure"]["exit_codes"]
    done = bash(gitlab, tmp_path)
    assert (0 if done.returncode == allowed else done.returncode) == code
    junit = block("gate-gitlab")["gate"]["artifacts"]["reports"]["junit"]
    assert ET.parse(tmp_path / junit).getroot().get("failures") == str(int(code == 1))


def test_the_workflow_does_not_let_a_vanished_row_through(tmp_path, right):
    for folder in ("main", "new"):
        scored(tmp_path / folder / "results", right)
    run(tmp_path / "main" / "results", "ours", right, run_id="knn-ours-digits-" + "1" * 10, config_hash="f" * 64)
    for command in both_ways(tmp_path):
        done = bash(command, tmp_path)
        assert done.returncode == 4 and "1 vanished" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("now", "code"), [("dino_demo", 0), ("random_vit", 1)])
def test_the_workflow_can_decide_on_its_example(tmp_path, now, code):
    """A trained network and an untrained one after raw pixels, under one name: a better one passes, a worse fails."""
    for folder, model in (("main", "pixels16"), ("new", now)):
        (file,) = (ROOT / "results" / "runs").glob(f"knn-{model}-drawings-*.json")
        found = records.read_file(file)
        target = tmp_path / folder / "results"
        checkpoint = dataclasses.replace(found.checkpoint, name="ours")
        renamed = dataclasses.replace(
            found, run_id=f"knn-ours-digits-{folder}", checkpoint=checkpoint, dataset="digits"
        )
        records.write(target, renamed, read_items(ROOT / "results", found))
    done = bash(steps("gate")["Gate"]["run"], tmp_path)
    assert done.returncode == code and "too few" not in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_the_workflows_other_steps(tmp_path):
    """Raw pixels stand in for the checkpoint; what is scored on one branch passes against itself on the other."""
    score = steps("gate")["Score"]["run"].replace("checkpoints/ours.pth", "pixels")
    assert score != steps("gate")["Score"]["run"] and steps("gate")["Install"]["run"] == "pip install ."
    assert [s["with"].get("path") for s in steps("gate").values() if "checkout" in s.get("uses", "")][-1] == "main"
    gitlab = block("gate-gitlab")["gate"]["script"]
    assert steps("gate")["Install"]["run"] in gitlab and steps("gate")["Score"]["run"] in gitlab
    done = bash(score, tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "results").symlink_to(tmp_path / "new" / "results")
    done = bash(steps("gate")["Gate"]["run"], tmp_path)
    assert done.returncode == 0 and "1 of 1 rows pass" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_workflows_baseline_is_what_was_merged(tmp_path):
    """Older weights come back: the record that is there already becomes the latest again."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(origin)], check=True)
    subprocess.run(["git", "clone", "-q", str(origin), str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "-q", "-b", "main"], check=True)
    subprocess.run(["git", "-C", str(clone), "config", "push.autoSetupRemote", "true"], check=True)
    refresh = steps("baseline")["Refresh"]["run"]
    small = "--data digits --set resize=16 --set crop=16"
    for weights in ("pixels", "random:resnet18", "pixels"):
        command = refresh.replace("checkpoints/ours.pth", weights).replace("--data digits", small)
        done = bash(command, clone, GITHUB_SHA="0" * 40)
        assert done.returncode == 0, done.stdout + done.stderr
    log = subprocess.run(["git", "-C", str(origin), "log", "--oneline", "main"], capture_output=True, text=True)
    assert len(log.stdout.splitlines()) == 3
    found, _ = records.read_all(clone / "results")
    assert len(found) == 2 and max(found, key=lambda r: r.started_at).checkpoint.arch.startswith("pixels")


def test_every_option_that_writes_has_its_format():
    assert set(FORMATS) == {"json", "markdown", "junit"}
