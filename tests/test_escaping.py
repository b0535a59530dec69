from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinobench.escaping import csv_cell, inert, visible

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe"


@given(TEXTS)
def test_what_is_shown_holds_no_control_character(text):
    shown = visible(text)
    assert all((ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F) or c in "\t\n" for c in shown)
    assert visible(shown) == shown


@given(st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_json_that_is_shown_reads_as_what_it_was(data):
    assert json.loads(visible(json.dumps(data, ensure_ascii=False))) == data


@given(st.sampled_from(["::", "##[", "##vso["]), TEXTS, st.sampled_from(["", "  ", "a\n", "a\n\t"]))
def test_no_line_is_a_workflow_command(command, text, before):
    for line in inert(f"{before}{command}{text}").splitlines():
        assert not line.lstrip().startswith(command)


@given(st.sampled_from("=+-@"), TEXTS)
def test_no_cell_is_a_formula(first, text):
    assert csv_cell(first + text)[0] == "'"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437", "utf-8"])
def test_what_a_terminal_lacks_is_escaped_and_json_stays_json(encoding):
    code = "import json; from dinobench import console\n"
    code += "console.note('é ✓ ⁴ 𝟙'); console.text(json.dumps({'name': 'é ✓ 𝟙'}, ensure_ascii=False))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONIOENCODING": encoding}
    )
    assert json.loads(done.stdout.decode(encoding)) == {"name": "é ✓ 𝟙"}
    assert done.stderr.decode(encoding).strip()


def test_names_come_out_as_text(tmp_path, capfd):
    from dinobench import console

    for speak in (console.note, console.warn, console.error, console.text):
        speak(f"model {HOSTILE}")
    console.table(HOSTILE, ["model"], [["::error::no"], [HOSTILE]])
    out, err = capfd.readouterr()
    assert not {"\x1b]", "\x07", "\x9b", "\u202e"} & set(out + err) and "\n::error" not in out


def test_a_terminal_gets_our_own_styles_and_nobody_elses(monkeypatch, capfd):
    from rich.console import Console

    from dinobench import console

    monkeypatch.setattr(console, "stdout", Console(force_terminal=True, width=80, highlight=False))
    console.table("title", ["model", HOSTILE], [["dino", HOSTILE]])
    out, _ = capfd.readouterr()
    assert "\x1b[1m" in out and r"\u001b[1m" not in out and r"\u001b]0;owned" in out
    assert not {"\x1b]", "\x1b[2J", "\x07", "\x9b"} & {out[i : i + n] for n in (1, 2, 4) for i in range(len(out))}
