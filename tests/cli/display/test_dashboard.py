"""The dashboard fits whatever screen, and says the same to a pull request."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinobench.cli.display import dashboard
from dinobench.suite.cells import Cell, State
from dinobench.suite.file import Suite
from dinobench.suite.work.status import Now, Standing, Status


def standing(now, model="dino", protocol="knn", data="digits", label="dino2021", seed=0, **changes):
    cell = Cell(f"{protocol}{model}{seed}{label}", protocol, None, {}, seed, model, "x.pth", data, (), None, label,
                State.TODO)  # fmt: skip
    return Standing(cell, now, **changes)


def status(*cells):
    return Status(Suite("paper", None, {}, {}, (), out=Path("results")), list(cells), processes=1)


EVERY = (
    standing(Now.DONE, "dino", score=74.52, metric="top1@k20", unit="%", seconds=3.0),
    standing(Now.RUNNING, "byol", share=0.5, what="Searching neighbours"),
    standing(Now.RUNNING, "mae"),
    standing(Now.QUEUED, "moco"),
    standing(Now.FAILED, "old", reason="ZeroDivisionError: division by zero"),
    standing(Now.MISSING, "lost", reason="no such file"),
    standing(Now.NOT_APPLICABLE, "conv"),
)


def test_a_screen_of_eighty_columns():
    assert dashboard.lines(status(*EVERY), 80, 24) == [
        "paper: 1 of 7 cells done, 2 running, 1 queued, 1 failed, 1 input missing, 1 not…",
        "knn · digits  ■▄▷·✗?-  1/7  74.5 dino",
        "▷ knn · digits of byol: Searching neighbours 50%",
        "▷ knn · digits of mae",
        "✗ knn · digits of old: ZeroDivisionError: division by zero",
    ]


def test_where_there_are_letters_alone(monkeypatch):
    monkeypatch.setattr(type(dashboard.console.stderr), "encoding", "ascii")
    assert dashboard.lines(status(*EVERY), 120, 24)[1] == "knn . digits  #>>.x?-  1/7  74.5 dino"


@given(
    st.integers(40, 200), st.integers(8, 40),
    st.lists(st.tuples(st.sampled_from([*Now]), st.integers(0, 30), st.sampled_from(["knn", "linear"]),
                       st.text(max_size=40)), max_size=80),
)  # fmt: skip
def test_it_never_leaves_the_screen(width, height, cells):
    made = [standing(now, f"m{i}{name}", protocol, label=f"p+k={i % 7}+{name}", score=50.0, seconds=1.0, reason=name)
            for i, (now, _, protocol, name) in enumerate(cells)]  # fmt: skip
    lines = dashboard.lines(status(*made), width, height)
    assert all(len(line) <= max(width, 60) for line in lines)
    assert len(lines) <= max(height, 14)


def test_many_cells_are_a_bar_and_many_rows_are_counted():
    many = [standing(Now.DONE if i < 500 else Now.QUEUED, f"m{i}", seconds=1.0) for i in range(1000)]
    (_, row) = dashboard.lines(status(*many), 80, 24)
    assert "500/1000" in row and len(row) <= 80 and row.count("■") == pytest.approx(row.count("·") - 1, abs=2)
    rows = [standing(Now.QUEUED, data=f"set{i}") for i in range(50)]
    lines = dashboard.lines(status(*rows), 80, 24)
    assert len(lines) <= 24 and lines[-1].startswith("and ") and lines[-1].endswith("more rows")


def test_labels_leave_out_what_all_have_in_common():
    cells = [standing(Now.QUEUED, label=f"dino2021+crop=32+k={k}") for k in (1, 20)]
    assert [line.split("  ")[0] for line in dashboard.lines(status(*cells), 80, 24)[1:]] == [
        "knn · k=1 · digits", "knn · k=20 · digits"
    ]  # fmt: skip


def test_a_pull_request_gets_a_table():
    text = dashboard.to_markdown(status(*EVERY))
    assert text.startswith("paper: 1 of 7 cells done")
    assert "| knn | dino2021 | digits | 1/7 | **74.5** top1@k20 dino |" in text
    assert "- knn · digits of old: ZeroDivisionError: division by zero" in text
    assert "a&#124;b" in dashboard.to_markdown(status(standing(Now.QUEUED, data="a|b")))


def test_a_plain_line_for_each_that_ends():
    found = status(*EVERY)
    assert dashboard.ended(found, EVERY[0]) == "[4/7] knn · digits of dino: done in 3.0 s, about 0:09 left"
    assert dashboard.ended(found, EVERY[4]).startswith("[4/7] knn · digits of old: failed: ZeroDivisionError")
