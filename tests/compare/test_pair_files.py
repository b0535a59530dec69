"""Pairings as files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from helpers.runs import run
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dinobench.compare.pair import pair
from dinobench.compare.pair_files import CSV_COLUMNS, FORMATS, to_csv, to_json, to_latex, to_markdown


@pytest.fixture(scope="module")
def pairing(tmp_path_factory):
    """A test that b wins, one that nobody does, one without items, and a run that only a has."""
    folder = tmp_path_factory.mktemp("results")
    right = np.arange(200) % 2 == 0
    for protocol, worse in (("knn", 40), ("logreg", 2), ("linear", 2)):
        run(folder, "a_1", right & (np.arange(200) >= worse), protocol=protocol, run_id=f"{protocol}-a")
        run(folder, "b", right, protocol=protocol, run_id=f"{protocol}-b")
    (folder / "items" / "linear-b.parquet").unlink()
    run(folder, "a_1", right, protocol="davis", run_id="davis-a")
    return pair(folder, "a_1", "b")


def test_only_what_the_test_tells_apart_is_bold(pairing):
    text = to_markdown(pairing)
    assert text.count("**") == 2 and "| 40.00 | **50.00** | -10.00 |" in text
    assert "- knn dino2021 digits: 200 items, McNemar" in text and "- linear dino2021 digits: no per-item" in text
    assert "- left out: davis-a: b has no davis run" in text
    (table,) = [t for t in MarkdownIt("commonmark").enable("table").parse(text) if t.type == "table_open"]
    assert table
    latex = to_latex(pairing)
    assert r"40.00 & \textbf{50.00} & -10.00" in latex and latex.count(r"\textbf") == 1
    assert latex.startswith("% left out: davis-a") and r"A: a\_1 & B: b" in latex


def test_csv_and_json_have_every_metric_at_full_precision(pairing):
    rows = list(csv.DictReader(io.StringIO(to_csv(pairing))))
    assert tuple(rows[0]) == CSV_COLUMNS and [r["protocol"] for r in rows] == ["knn", "linear", "logreg"]
    found = {r.run_a.protocol: r.primary for r in pairing.results}
    for row in rows:
        m = found[row["protocol"]]
        assert row["model_a"] == "a_1" and float(row["difference"]) == m.difference
        assert (row["p"], row["p_holm"]) == tuple("" if p is None else repr(p) for p in (m.p, m.p_holm))
    read = json.loads(to_json(pairing), parse_constant=lambda text: pytest.fail(text))
    assert [m["p"] for r in read["results"] for m in r["metrics"]] == [found[r["protocol"]].p for r in read["results"]]
    assert read["skipped"] == list(pairing.skipped) and read["results"][0]["run_a"] == "knn-a"


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=10))
def test_any_name_keeps_every_file_whole(pairing, name):
    first = pairing.results[0]
    one = dataclasses.replace(first.primary, metric=name, ci_low=float("-inf"), note=name)
    checkpoint = dataclasses.replace(first.run_a.checkpoint, name=name)
    named = dataclasses.replace(first.run_a, checkpoint=checkpoint, protocol=name, dataset=name)
    result = dataclasses.replace(first, run_a=named, metrics=(one,))
    odd = dataclasses.replace(pairing, a=name, results=(result,), skipped=(name,), notes=(name,))
    assert {len(row) for row in csv.reader(io.StringIO(to_csv(odd), newline=""))} == {len(CSV_COLUMNS)}
    assert json.loads(to_json(odd))["results"][0]["metrics"][0]["ci_low"] is None
    table = [line for line in to_markdown(odd).split("\n") if line.startswith("|")]
    assert len(table) == 3 and {line.count("|") for line in table} == {9}
    body = to_latex(odd).split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert body.replace(r"\&", "").count("&") == 7 and len(body.strip().split("\n")) == 1


def test_every_format_has_its_writer():
    assert set(FORMATS) == {"csv", "markdown", "latex", "json"}
