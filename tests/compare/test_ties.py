"""Runs that no test can tell from the best."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.runs import run
from helpers.tables import run as scored

from dinobench.compare import compare, writers
from dinobench.compare.ties import NOTE, TESTED, TellByItems, tied
from dinobench.report import charts, page
from dinobench.results import records
from dinobench.results.comparability import read_records


def places(found, results):
    table = compare(found, tell=TellByItems(results))
    return {r.labels[0]: cells[0].place for r, cells in zip(table.rows, table.cells, strict=True)}, table


@pytest.fixture
def close(tmp_path):
    """a and b differ on a few images, c is far behind."""
    right = np.arange(400) % 10 < 7
    run(tmp_path, "a", right)
    run(tmp_path, "b", right & (np.arange(400) > 3))
    run(tmp_path, "c", right & (np.arange(400) % 4 > 0))
    return tmp_path, read_records(tmp_path)[0]


def test_nothing_is_called_the_best_that_the_test_cannot_tell_from_the_next(close):
    results, found = close
    marked, table = places(found, results)
    assert marked == {"a": writers.TIED, "b": writers.TIED, "c": 0} and table.notes == (("=", NOTE),)
    text = writers.to_markdown(table)
    assert "**" not in text and "<ins>" not in text
    assert "| a | 70.0<sup>=</sup> |" in text and "<sup>=</sup> tied" in text
    assert r"\textbf" not in writers.to_latex(table) and r"69.0\textsuperscript{=}" in writers.to_latex(table)
    lines = writers.to_csv(table).splitlines()
    assert ",tied," in lines[1] and ",tied," in lines[2] and ",tied," not in lines[3] and "second" not in lines[3]


def test_a_best_one_that_the_test_tells_from_the_next_is_bold(close):
    results, found = close
    marked, table = places([r for r in found if r.checkpoint.name != "b"], results)
    assert marked == {"a": 1, "c": 2} and not table.notes


def test_runs_without_items_or_with_other_items_are_ranked_by_their_numbers(close):
    results, found = close
    (results / "items" / f"{found[1].run_id}.parquet").unlink()
    assert places(found, results)[0] == {"a": 1, "b": 2, "c": 0}
    run(results, "b", np.ones(399))
    assert places(read_records(results)[0], results)[0] == {"b": 1, "a": 2, "c": 0}
    (results / "items" / f"{found[0].run_id}.parquet").write_bytes(b"PAR1 damaged")
    assert places(found, results)[0] == {"a": 1, "b": 2, "c": 0}


def test_less_is_better_where_it_is(tmp_path):
    rng = np.random.default_rng(0)
    decay = rng.random(60)
    for model, shift in (("a", 0.3), ("b", 0.0), ("c", 0.001)):
        run(tmp_path, model, decay + shift + rng.normal(0, 0.01, 60), metric="J_decay")
    marked, _ = places(read_records(tmp_path)[0], tmp_path)
    assert marked == {"a": 0, "b": writers.TIED, "c": writers.TIED}


def test_equal_numbers_share_the_tie_and_thousands_are_not_all_tested():
    found = [scored(f"m{i}", 50 - i / 1000) for i in range(100)]
    asked = []
    assert tied(found, "top1@k20", lambda best, other, metric: asked.append(other) or False) == TESTED == len(asked)
    table = compare(found, tell=lambda best, other, metric: other.checkpoint.name != "m1")
    marked = [r.labels[0] for r, cells in zip(table.rows, table.cells, strict=True) if cells[0].place == writers.TIED]
    assert len(marked) == 51 and {"m0", "m1", "m50"} <= set(marked)  # 49.95 reads 50.0 too, and 49.949 does not


def test_the_page_marks_ties_and_no_best(close):
    results, found = close
    text, _ = page.page(results)
    assert text.count('class="tied"') == 2 and 'class="best"' not in text
    assert text.count("with the best of 3 comparable runs") == 2 and "the best 2 are tied" in text
    (group,) = charts.groups(found)
    rows = page.rows_of([group], {})
    assert [(r.best_of, r.tied_of) for r in rows] == [(3, 0), (0, 0), (0, 0)]
    records.write(results, found[2], None)
    assert page.page(results)[0].count('class="tied"') == 2
