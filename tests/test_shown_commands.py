"""The commands that pages show do what is said of them: each is run, on embedded data and in an empty folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from helpers.documents import DOCS, commands
from helpers.shown import NOT_RUN, RUN, WORDS, prepare, runnable
from helpers.typed import typed

SHOWN = {page: list(commands(DOCS / f"{page}.md")) for page in RUN}


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_runs(page, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))
    call = partial(typed, monkeypatch, capsys)
    shown = [one for one in SHOWN[page] if " ".join(one.arguments) not in NOT_RUN]
    prepare(call, with_results=any("results" in one.arguments for one in shown))
    for one in shown:
        code, out, err = call(*runnable(one.arguments))
        assert code == 0, f"{one.line}: {err}"
        if "-o" in one.arguments:
            assert Path(one.arguments[one.arguments.index("-o") + 1]).stat().st_size > 0, one.line
        else:
            assert out or err, one.line


def test_what_stands_for_commands_and_words_is_shown():
    shown = [one.arguments for page in SHOWN.values() for one in page]
    assert not NOT_RUN.keys() - {" ".join(arguments) for arguments in shown}
    assert not WORDS.keys() - {word for arguments in shown for word in arguments}
