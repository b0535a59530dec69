"""The command as typed, for every family of commands."""

from __future__ import annotations

from functools import partial

import pytest
from helpers.typed import typed


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command as typed, in this process and an empty folder -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return partial(typed, monkeypatch, capsys)
