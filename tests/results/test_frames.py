from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.runs import run
from helpers.samples import INFO, record

import dinobench
from dinobench.errors import UserError
from dinobench.escaping import ShownRecords
from dinobench.results import leaderboard, records
from dinobench.results.comparability import key
from dinobench.results.frames import COLUMNS
from dinobench.types import MetricValue


@pytest.fixture
def folder(tmp_path):
    run(tmp_path, "a", [1, 0, 1, 1], columns={"label": list("xyxy")})
    run(tmp_path, "b", [1, 0, 0, 1], columns={"label": list("xyxy")})
    run(tmp_path, "b", [0.5, 0.25], run_id="davis-b", metric="J", protocol="davis", dataset="DAVIS")
    records.write(tmp_path, record("bare", protocol="logreg"), None)
    return tmp_path


def test_a_row_a_score(folder):
    table = dinobench.read_results(folder)
    assert tuple(table.columns) == COLUMNS and len(table) == 5
    first = table[table.run_id == "knn-a-digits"].iloc[0]
    assert (first.model, first.value, first.n, first.primary, first.higher_is_better) == ("a", 75.0, 4, True, True)
    loss = table[table.metric == "loss"].iloc[0]
    assert not loss.primary and not loss.higher_is_better and np.isnan(loss.ci_low) and loss.value == 0.125
    assert table.groupby("comparable").run_id.apply(set).tolist().count({"knn-a-digits", "knn-b-digits"}) == 1
    assert len(dinobench.read_results(str(folder), protocol="knn")) == 2
    assert set(dinobench.read_results(folder, protocol=["knn", "davis"], dataset=["DAVIS"]).model) == {"b"}


def test_a_row_an_item(folder, capsys):
    items = dinobench.read_results(folder, items=True, protocol="knn")
    assert items.columns[:6].tolist() == ["run_id", "model", "protocol", "profile", "dataset", "seed"]
    assert (
        items.groupby("model")["top1@k20"].mean().tolist() == [0.75, 0.5] and items.label.tolist() == list("xyxy") * 2
    )
    everything = dinobench.read_results(folder, items=True)
    assert len(everything) == 10 and everything.J.notna().sum() == 2
    assert "1 of 4 runs kept no items, such as bare" in capsys.readouterr().err


def test_a_column_of_the_items_own_keeps_its_name(tmp_path):
    run(tmp_path, "a", [1, 0], columns={"model": ["x", "y"]})
    items = dinobench.read_results(tmp_path, items=True)
    assert items.model.tolist() == ["x", "y"] and items.run_model.tolist() == ["a", "a"]


def test_what_is_not_there_or_damaged_is_said(folder, tmp_path, capsys):
    for options, words in (
        ({"protocol": "kn"}, "unknown protocol of .*did you mean 'knn'"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"items": True, "protocol": "logreg"}, "none of its 1 runs kept items"),
    ):
        with pytest.raises(UserError, match=words):
            dinobench.read_results(folder, **options)
    with pytest.raises(UserError, match="no runs/ folder"):
        dinobench.read_results(folder / "nowhere")
    (folder / "runs" / "half.json").write_text("{")
    assert len(dinobench.read_results(folder)) == 5 and "half.json: left out" in capsys.readouterr().err


def test_the_committed_results_agree_with_the_leaderboard():
    table = dinobench.read_results(ROOT / "results")
    whole, _ = records.read_all(ROOT / "results")
    board = pd.DataFrame(leaderboard.lines(whole), columns=leaderboard.COLUMNS)
    assert len(table) == len(board)
    both = table.merge(board, on=["run_id", "metric"], suffixes=("", "_shown"))
    assert len(both) == len(table) and (both.value - both.value_shown.astype(float)).abs().max() <= 0.00501
    first = {r.run_id: key(r) for r in whole}
    groups = table.groupby("comparable").run_id.apply(lambda ids: len({first[i] for i in ids}))
    assert (groups == 1).all()


def test_notebooks_show_scores_with_intervals_and_no_foreign_markup():
    evil = dataclasses.replace(INFO, name="<script>alert(1)</script>")
    one = record(checkpoint=evil, metrics={"top1@k20": MetricValue(74.512, 73, 76, 450, "%"), "loss": MetricValue(
        0.125, None, None, 0, "<i>")})  # fmt: skip
    shown = one._repr_html_()
    assert "<script" not in shown and "&lt;script&gt;" in shown and "&lt;i&gt;" in shown
    assert "74.51" in shown and "[73.00, 76.00]" in shown and shown.count("<tr>") == 3 and ">450<" in shown
    several = ShownRecords([one, record()])._repr_html_()
    assert several.count("<tr>") == 3 and "<script" not in several and "loss" not in several
