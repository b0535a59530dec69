"""The gate's verdicts, how often they are wrong, and the workflow that the README shows."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from helpers.paths import ROOT
from helpers.runs import run
from helpers.samples import INFO

from dinobench.compare.gate import FAIL, PASS, UNSURE, GateReport, GateRow, gate, judged, publish
from dinobench.errors import UserError
from dinobench.stats.paired_tests import BinaryPairs, PairedDifferences

README = ROOT / "README.md"


def flipped(right, drop, seed=0):
    """The same scores with `drop` of the right ones turned wrong."""
    changed = right.copy()
    changed[np.random.default_rng(seed).choice(np.flatnonzero(right), drop, replace=False)] = False
    return changed


def other_weights(name):
    return dataclasses.replace(INFO, name=name, weights_digest="9" * 64)


@pytest.fixture
def right():
    return np.random.default_rng(0).random(4000) < 0.8


@pytest.mark.parametrize(("drop", "verdict", "code"), [(0, PASS, 0), (4, PASS, 0), (19, UNSURE, 3), (80, FAIL, 1)])
def test_verdicts_and_exit_codes(tmp_path, right, drop, verdict, code):
    run(tmp_path / "old", "a", right)
    run(tmp_path / "new", "a", flipped(right, drop), checkpoint=other_weights("a"))
    report = gate(tmp_path / "new", tmp_path / "old", margin=0.5)
    (row,) = report.rows
    assert (row.verdict, report.verdict, report.exit_code) == (verdict, verdict, code)
    assert row.low <= row.change <= row.high and row.change == pytest.approx(-drop / 40)
    assert (row.low > -0.5) == (verdict == PASS) and (row.high < -0.5) == (verdict == FAIL)


def test_the_same_weights_with_the_same_items_pass_however_few(tmp_path):
    for folder in ("old", "new"):
        run(tmp_path / folder, "a", [1, 0, 1])
    report = gate(tmp_path / "new", tmp_path / "old", margin=0.0)
    assert report.exit_code == 0 and report.rows[0].change == 0
    run(tmp_path / "new", "a", [1, 0, 1], checkpoint=other_weights("a"))
    assert gate(tmp_path / "new", tmp_path / "old").exit_code == 3


def test_too_few_images_say_how_many_would_do(tmp_path, right):
    run(tmp_path / "old", "a", right[:100])
    run(tmp_path / "new", "a", flipped(right[:100], 2), checkpoint=other_weights("a"))
    (row,) = gate(tmp_path / "new", tmp_path / "old").rows
    assert row.verdict == UNSURE and row.needed > 100 and f"about {row.needed:,} would be needed" in row.reason


def test_less_is_better_where_it_is(tmp_path):
    rng = np.random.default_rng(1)
    decay = rng.random(300) * 0.2
    for name, folder, values in (("a", "old", decay), ("a", "new", decay + 0.03 + rng.normal(0, 0.01, 300))):
        info = other_weights(name) if folder == "new" else INFO
        run(tmp_path / folder, name, values, metric="J_decay", checkpoint=dataclasses.replace(info, name=name))
    assert gate(tmp_path / "new", tmp_path / "old").exit_code == 1
    assert gate(tmp_path / "old", tmp_path / "new").exit_code == 0


def test_new_vanished_and_changed_rows_are_named_with_the_reason(tmp_path, right):
    for folder, models in (("old", "abc"), ("new", "abd")):
        for model in models:
            changes = {"dataset_fingerprint": "e" * 64} if (folder, model) == ("new", "b") else {}
            run(tmp_path / folder, model, right, **changes)
    (tmp_path / "new" / "runs" / "half.json").write_text("{")
    report = gate(tmp_path / "new", tmp_path / "old")
    assert [row.model for row in report.rows] == ["a"] and report.exit_code == 3
    assert [v.split(" ")[0] for v in report.vanished] == ["b", "c"] and "images: digits (" in report.vanished[0]
    assert [n.split(" ")[0] for n in report.new] == ["b", "d"] and "half.json" in report.notes[0]
    assert gate(tmp_path / "new", tmp_path / "old", allow_missing=True).exit_code == 0
    shown = report.markdown()
    assert all(entry in shown for entry in (*report.vanished, *report.new))


def test_rows_that_cannot_be_tested_are_not_passed(tmp_path, right):
    run(tmp_path / "old", "a", right)
    run(tmp_path / "new", "a", right[:-1], checkpoint=other_weights("a"))
    (row,) = gate(tmp_path / "new", tmp_path / "old").rows
    assert row.verdict == UNSURE and "different items" in row.reason
    (tmp_path / "new" / "items" / "knn-a-digits.parquet").unlink()
    assert "no per-item scores" in gate(tmp_path / "new", tmp_path / "old").rows[0].reason


@pytest.mark.parametrize(("margin", "alpha"), [(-1, 0.05), (float("nan"), 0.05), (0.5, 0), (0.5, 0.5)])
def test_values_out_of_range_are_refused(tmp_path, margin, alpha):
    run(tmp_path, "a", [1, 0])
    with pytest.raises(UserError, match=r"--margin|--alpha"):
        gate(tmp_path, tmp_path, margin, alpha)


def test_nothing_in_common_is_bad_input(tmp_path, right):
    run(tmp_path / "old", "a", right)
    run(tmp_path / "new", "b", right)
    with pytest.raises(UserError, match="no counterpart of any row"):
        gate(tmp_path / "new", tmp_path / "old")
    with pytest.raises(UserError, match="no runs/ folder"):
        gate(tmp_path / "new", tmp_path / "nowhere")


def test_summary_and_annotations_as_github_takes_them(tmp_path, right):
    run(tmp_path / "old", "a|b", right)
    run(tmp_path / "new", "a|b", flipped(right, 100), checkpoint=other_weights("a|b"))
    report = gate(tmp_path / "new", tmp_path / "old")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    lines = publish(report, {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"})
    text = summary.read_text()
    assert text.startswith("before\n### dinobench gate: fail") and "a\\|b" in text
    table = [re.sub(r"\\\|", "", line) for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(lines) == 1 and lines[0].startswith("::error title=dinobench gate::a|b · knn")
    assert publish(report, {}) == []
    odd = GateReport(0.5, 0.05, (), (), ("50 %\nlost",))
    assert odd.annotations() == ["::warning title=dinobench gate::vanished: 50 %25%0Alost"]
    with pytest.raises(UserError, match="GITHUB_STEP_SUMMARY"):
        publish(report, {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "folder")})


def _verdicts(evidence, margin, alpha):
    """Of builds, each a list of rows' evidence."""
    seen = {}
    for found in {id(e): e for build in evidence for e in build}.values():
        seen[id(found)] = GateRow(
            "m", "p", "q", "d", "top1", "%", 0, 0, 0, UNSURE, "", 0, 0, found.p_above(-margin), found.p_below(-margin)
        )
    reports = [
        GateReport(margin, alpha, judged([seen[id(e)] for e in build], margin, alpha), (), ()) for build in evidence
    ]
    return np.array([report.verdict for report in reports])


@pytest.mark.parametrize("rows", [1, 6])
def test_false_alarms_are_at_most_alpha_over_all_rows(rows):
    """Every row has dropped by exactly the margin: to fail would be wrong, and so would be to pass."""
    rng, builds, alpha, margin = np.random.default_rng(2), 3000, 0.05, 0.005
    tables: dict[tuple[int, int], BinaryPairs] = {}
    draws = rng.multinomial(1500, [0.005, 0.01, 0.985], (builds, rows))
    evidence = [
        [tables.setdefault((w, lo), BinaryPairs(1500, int(w), int(lo))) for w, lo, _ in build] for build in draws
    ]
    verdicts = _verdicts(evidence, margin, alpha)
    slack = 3 * np.sqrt(alpha * (1 - alpha) / builds)
    assert np.mean(verdicts == FAIL) <= alpha + slack
    assert np.mean(verdicts == PASS) <= alpha + slack
    if rows == 1:
        assert np.mean(verdicts == FAIL) >= 0.01 and np.mean(verdicts == PASS) >= 0.01  # and it can do both


def test_false_alarms_of_scores_and_of_one_bad_row_among_good_ones():
    rng, builds, alpha, margin = np.random.default_rng(3), 1500, 0.05, 0.01
    bad = [PairedDifferences(d, np.ones(120)) for d in rng.normal(-margin, 0.05, (builds, 120))]
    good = [PairedDifferences(d, np.ones(120)) for d in rng.normal(0.05, 0.01, (builds, 120))]
    slack = 3 * np.sqrt(alpha * (1 - alpha) / builds)
    alone = _verdicts([[b] for b in bad], margin, alpha)
    among = _verdicts([[b, g, g] for b, g in zip(bad, good, strict=True)], margin, alpha)
    for verdicts in (alone, among):
        assert np.mean(verdicts == FAIL) <= alpha + slack and np.mean(verdicts == PASS) <= alpha + slack


def test_a_real_drop_is_found():
    rng = np.random.default_rng(4)
    tables: dict[tuple[int, int], BinaryPairs] = {}
    draws = rng.multinomial(4000, [0.01, 0.04, 0.95], (300, 3))
    evidence = [
        [tables.setdefault((w, lo), BinaryPairs(4000, int(w), int(lo))) for w, lo, _ in build] for build in draws
    ]
    assert np.mean(_verdicts(evidence, 0.005, 0.05) == FAIL) > 0.99


# The README's workflow.


def workflow():
    text = README.read_text(encoding="utf-8")
    if "<!-- gate-workflow -->" not in text:
        pytest.skip("README.md has no workflow")
    block = text.split("<!-- gate-workflow -->")[1].split("<!-- /gate-workflow -->")[0]
    (job,) = yaml.safe_load(re.search(r"```yaml\n(.*?)```", block, re.S)[1])["jobs"].values()
    return {step.get("name", step.get("uses")): step for step in job["steps"]}


def bash(step, folder, **environ):
    """A step as GitHub runs it, with `dinobench` on the path."""
    (folder / "bin").mkdir(exist_ok=True)
    shim = folder / "bin" / "dinobench"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m dinobench "$@"\n')
    shim.chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "GITHUB_ACTIONS": "true", **environ}
    environ["PYTHONPATH"] = str(README.parent)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("drop", "code", "said"), [(0, 0, ""), (19, 0, "::warning "), (100, 1, "::error ")])
def test_the_workflows_gate_step(tmp_path, right, drop, code, said):
    step = workflow()["Gate"]["run"]
    run(tmp_path / "main" / "results", "ours", right)
    run(tmp_path / "new" / "results", "ours", flipped(right, drop), checkpoint=other_weights("ours"))
    done = bash(step, tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))
    assert done.returncode == code, done.stderr
    assert said in done.stdout and "### dinobench gate:" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
def test_the_workflows_other_steps(tmp_path):
    """Raw pixels stand in for the checkpoint; what is scored on one branch passes against itself on the other."""
    steps = workflow()
    score = steps["Score"]["run"].replace("checkpoints/ours.pth", "pixels")
    assert score != steps["Score"]["run"] and steps["Install"]["run"] == "pip install ."
    assert [s["with"].get("path") for s in steps.values() if "checkout" in s.get("uses", "")][-1] == "main"
    done = bash(score, tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "results").symlink_to(tmp_path / "new" / "results")
    done = bash(steps["Gate"]["run"], tmp_path)
    assert done.returncode == 0 and "1 of 1 rows pass" in done.stdout, done.stderr
