"""The command as typed, for every family of commands."""

from __future__ import annotations

import sys

import pytest

from dinobench import console


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command as typed, in this process and an empty folder -> (exit code, stdout, stderr)."""
    from dinobench.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dinobench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        assert not console.silent
        return int(stopped.value.code or 0), out, err

    return call
