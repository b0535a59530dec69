"""Tables on screens that are too narrow for them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinobench import console
from dinobench.cli.display import layout


@pytest.fixture
def shown(monkeypatch, capsys):
    def show(width, columns, rows, right=(), title=""):
        monkeypatch.setattr(console.stdout, "width", width)
        capsys.readouterr()
        layout.table(title, columns, rows, right=right)
        return capsys.readouterr().out.splitlines()

    return show


def test_what_fits_stays_a_table(shown):
    assert shown(20, ["name", "n"], [["a", 1], ["bb", 20]], right=["n"]) == ["name   n", "a      1", "bb    20"]


def test_the_widest_text_is_folded(shown):
    lines = shown(60, ["setting", "default", "meaning"], [["k", "10,20", "numbers of neighbours that vote " * 3]])
    assert lines[1].startswith("k        10,20    numbers of") and lines[2].startswith(" " * 18)
    assert max(map(len, lines)) <= 60


def test_numbers_stand_in_blocks_below_each_other(shown):
    columns = ["model", "first", "second", "third"]
    lines = shown(24, columns, [["m" * 10, 1.5, 2.5, 3.5]], right=columns[1:], title="scores")
    assert lines[0] == "scores" and [line.split()[-1] for line in lines if line] == [
        "scores", "first", "1.5", "second", "2.5", "third", "3.5",
    ]  # fmt: skip
    assert sum(line.startswith("model") for line in lines) == 3
    assert max(map(len, lines)) <= 24


def test_texts_that_cannot_be_folded_become_a_paragraph_a_row(shown):
    columns = ["verdict", "model", "protocol", "score", "why"]
    rows = [["fail", "m" * 20, "p" * 20, "1.0", "worse by more than the margin"], ["pass", "b", "q", "2.0", ""]]
    lines = shown(50, columns, rows, right=["score"])
    assert lines[0] == "fail" and lines[-2] == "pass" and lines[-1] == "  model: b · protocol: q · score: 2.0"
    text = " ".join(" ".join(lines).split())
    assert f"model: {'m' * 20}" in text and "why: worse by more than the margin" in text
    assert max(map(len, lines)) <= 50


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(40, 100),
    st.lists(st.lists(st.text("abc ,", max_size=50), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(0, 4),
)
def test_nothing_is_lost_and_nothing_is_wider_than_the_screen(shown, width, rows, numbers):
    columns = ["one", "two", "three", "four", "five"]
    rows = [[cell if i < 5 - numbers else cell[:12].strip() for i, cell in enumerate(row)] for row in rows]
    lines = shown(width, columns, rows, right=columns[5 - numbers :])
    assert all(len(line) <= width for line in lines)
    letters = "".join(lines)
    for letter in "abc":
        spare = sum(name.count(letter) for name in columns)
        assert letters.count(letter) >= sum(c.count(letter) for row in rows for c in row) - spare


def test_folding_breaks_at_commas():
    assert layout.folded("0.1,0.2,0.3,0.4", 9) == "0.1,0.2,\n0.3,0.4"
    assert layout.folded("a b\n\nc", 10) == "a b\n\nc"
