"""Commands as typed, in this process, and what every one is held to."""

from __future__ import annotations

import sys

import pytest

from dinobench import console
from dinobench.cli import main


def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """`dinobench ARGUMENTS` -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["dinobench", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert not console.silent
    return int(stopped.value.code or 0), out, err


def assert_one_line(code: int, out: str, err: str, words: str) -> None:
    """Bad input ends with code 2, nothing on stdout and one line on stderr that has `words` in it."""
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err, err
