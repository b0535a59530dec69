from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from dinobench import console


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def slowly(clock, n, seconds):
    for i in range(n):
        clock[0] += seconds
        yield i


def test_quick_work_is_silent(clock, capsys):
    assert list(console.progress(slowly(clock, 10, 0.1), "Quick", 10)) == list(range(10))
    assert capsys.readouterr() == ("", "")


def test_slow_work_is_told_in_plain_lines_with_rate_and_time_left(clock, capsys):
    assert len(list(console.progress(slowly(clock, 40, 1.0), "Work on [it]", 40))) == 40
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "Work on [it]: 15/40 (1.0/s, 0:25 left)",
        "Work on [it]: 30/40 (1.0/s, 0:10 left)",
        "Work on [it]: 40 in 0:40 (1.0/s)",
    ]


def test_batches_count_as_many_as_they_hold(clock, capsys):
    class Batch:
        n = 8

    list(console.progress((Batch() for _ in slowly(clock, 4, 1.0)), "Images"))
    assert "Images: 32 in 0:04 (8.0/s)" in capsys.readouterr().err


def test_on_a_terminal_there_is_a_bar(clock, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=screen, force_terminal=True, width=100))
    list(console.progress(slowly(clock, 5, 1.0), "Work", 5))
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"Work .*[35]/5", shown) and shown.rstrip().endswith("Work: 5 in 0:05 (1.0/s)")


def screens(clock, monkeypatch, width, description, total, start=0):
    """Every line that a slow loop draws on a terminal of so many columns."""
    screen = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=screen, force_terminal=True, width=width))
    list(console.progress(slowly(clock, 6, 3.7), description, total, start))
    lines = re.split(r"\x1b\[2K|\n", screen.getvalue())
    return [re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]|\r", "", line) for line in lines]


@pytest.mark.parametrize("description", ["Images", "Epoch 99/100: loss 11.1210, 12:34:56 left in all [teacher]"])
def test_a_narrow_terminal_keeps_the_time_left_and_drops_the_bar(clock, monkeypatch, description):
    """The time left goes on being told, in one line, whatever else there is to say."""
    total = 1_281_167
    lines = [x for x in screens(clock, monkeypatch, 80, description, total, 1000) if f"/{total}" in x]
    assert lines and all(len(line) <= 80 and "━" not in line for line in lines)
    assert re.match("Images|Epoch 99", lines[-1])
    assert re.search(r"/1281167 .*(\d:\d\d:\d\d|-:--:--)$", lines[-1].rstrip())
    wide = [x for x in screens(clock, monkeypatch, 160, description, total, 1000) if f"/{total}" in x]
    assert all("━" in line and description in line for line in wide)


def test_an_error_in_the_loop_comes_through(clock):
    def broken():
        yield 1
        clock[0] += 10
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(console.progress(broken(), "Work"))


def test_processes_beside_the_first_do_not_speak(clock, capsys, monkeypatch):
    monkeypatch.setattr(console, "silent", True)
    console.note("a")
    console.warn("b")
    assert len(list(console.progress(slowly(clock, 40, 1.0), "Work"))) == 40
    assert capsys.readouterr() == ("", "")


def test_messages_are_one_line_with_brackets_and_all(capsys):
    console.error("no such [file]\n  [/bold] " + "x" * 300)
    console.warn("[red]")
    console.note("[/]")
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [f"error: no such [file] [/bold] {'x' * 300}", "warning: [red]", "[/]"]


def test_a_table_keeps_its_width_when_piped(capsys):
    console.table("title", ["name", "value"], [["[x]" * 60, 1], ["b", 20]], right=["value"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "title" and lines[2].startswith("[x]" * 60)
    assert lines[1].endswith("value") and lines[3].endswith("   20") and len(lines) == 4


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_clock(seconds, text):
    assert console._clock(seconds) == text


def test_notes_are_held_back_while_work_is_hushed(capsys):
    with console.hushed():
        with console.hushed():
            console.note("a")
        console.note("b")
        console.warn("c")
    console.note("d")
    assert capsys.readouterr().err.split() == ["warning:", "c", "d"]
