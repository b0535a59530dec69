"""The gate's verdicts and how often they are wrong."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from helpers.gates import flipped, other_weights
from helpers.runs import run
from helpers.samples import INFO

from dinobench.compare.gate import FAIL, INCOMPLETE, PASS, UNSURE, UNTESTED, GateReport, GateRow, gate, judged
from dinobench.errors import UserError
from dinobench.stats.paired_tests import BinaryPairs, PairedDifferences


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


def test_enough_images_and_a_drop_near_the_margin_say_how_bad_it_may_be(tmp_path, right):
    """The images would do for an unchanged backbone: that more would be needed is not said."""
    run(tmp_path / "old", "a", right)
    run(tmp_path / "new", "a", flipped(right, 19), checkpoint=other_weights("a"))
    (row,) = gate(tmp_path / "new", tmp_path / "old", margin=0.5).rows
    assert row.needed <= row.items == len(right)
    assert row.verdict == UNSURE and row.reason == f"cannot tell with 4,000 items: it may be worse by {-row.low:.2f}"


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
    assert [row.model for row in report.rows] == ["a"] and (report.verdict, report.exit_code) == (INCOMPLETE, 4)
    assert [v.model for v in report.vanished] == ["b", "c"] and "images: digits (" in str(report.vanished[0])
    assert [n.model for n in report.new] == ["b", "d"] and "half.json" in report.notes[0]
    assert gate(tmp_path / "new", tmp_path / "old", allow_missing=True).exit_code == 0


@pytest.mark.parametrize(
    ("drops", "allowed", "code"),
    [((0,), False, 4), ((0, 19), False, 4), ((0, 80), False, 1), ((0,), True, 0), ((0, 19), True, 3)],
)
def test_a_vanished_row_is_never_taken_for_too_few_images(tmp_path, right, drops, allowed, code):
    """Whatever the other rows say, unless one of them fails."""
    run(tmp_path / "old", "gone", right)
    for number, drop in enumerate(drops):
        run(tmp_path / "old", f"m{number}", right)
        run(tmp_path / "new", f"m{number}", flipped(right, drop), checkpoint=other_weights(f"m{number}"))
    assert gate(tmp_path / "new", tmp_path / "old", allow_missing=allowed).exit_code == code


def test_a_record_of_the_baseline_that_cannot_be_read_is_a_row_that_is_missing(tmp_path, right):
    for folder in ("old", "new"):
        run(tmp_path / folder, "a", right)
    (tmp_path / "old" / "runs" / "knn-b-digits.json").write_text("<<<<<<< HEAD\n")
    report = gate(tmp_path / "new", tmp_path / "old")
    assert report.exit_code == 4 and "knn-b-digits.json" in report.unread[0] and "1 of the baseline" in report.summary
    assert gate(tmp_path / "new", tmp_path / "old", allow_missing=True).exit_code == 0
    (tmp_path / "old" / "runs" / "knn-b-digits.json").unlink()
    run(tmp_path / "old", "b", right)
    run(tmp_path / "elsewhere", "b", ~right)
    shutil.copy(*(tmp_path / folder / "items" / "knn-b-digits.parquet" for folder in ("elsewhere", "old")))
    assert gate(tmp_path / "new", tmp_path / "old").exit_code == 4  # the record and its items contradict each other


@pytest.mark.parametrize("pattern", ["knn", "our*", "dino2021", "digits", "knn-ours-*"])
def test_only_what_was_run_again_is_judged(tmp_path, right, pattern):
    for folder in ("old", "new"):
        run(tmp_path / folder, "ours", right)
    run(tmp_path / "old", "best", right, run_id="logreg-best", protocol="logreg", dataset="cifar10", profile="dinov2")
    run(tmp_path / "new", "other", right, run_id="logreg-other", protocol="logreg", dataset="cifar10", profile="dinov2")
    assert gate(tmp_path / "new", tmp_path / "old").exit_code == 4
    report = gate(tmp_path / "new", tmp_path / "old", only=[pattern])
    assert report.exit_code == 0 and not report.new and report.only == (pattern,)
    assert gate(tmp_path / "new", tmp_path / "old", only=[pattern, "logreg"]).exit_code == 4
    with pytest.raises(UserError, match=r"unknown --only pattern .* 'logreg-ours\*'.*available: best, cifar10"):
        gate(tmp_path / "new", tmp_path / "old", only=[pattern, "logreg-ours*"])


def test_rows_that_cannot_be_tested_neither_pass_nor_lack_images(tmp_path, right):
    run(tmp_path / "old", "a", right)
    run(tmp_path / "new", "a", right[:-1], checkpoint=other_weights("a"))
    report = gate(tmp_path / "new", tmp_path / "old", allow_missing=True)
    (row,) = report.rows
    assert row.verdict == UNTESTED and "different items" in row.reason
    assert report.exit_code == 4 and "1 cannot be tested" in report.summary
    (tmp_path / "new" / "items" / "knn-a-digits.parquet").unlink()
    assert "no per-item scores" in gate(tmp_path / "new", tmp_path / "old").rows[0].reason
    for changes in ({"metric": "top1@k10"}, {"unit": "points"}):
        run(tmp_path / "new", "a", right, checkpoint=other_weights("a"), **changes)
        report = gate(tmp_path / "new", tmp_path / "old")
        assert "has no top1@k20 in %" in report.rows[0].reason and report.exit_code == 4


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
