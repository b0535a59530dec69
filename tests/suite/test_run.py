"""A suite in one call returns its records."""

from __future__ import annotations

import pytest
from helpers.suites import plug_in, unsound

import dinobench
from dinobench.errors import UserError


@pytest.mark.slow
def test_a_suite_returns_its_records_and_says_what_has_none(tmp_path, monkeypatch, capsys):
    plug_in(tmp_path / "site", monkeypatch)
    unsound(tmp_path, "not", "input")
    monkeypatch.chdir(tmp_path)
    heard = []
    records = dinobench.run_suite("unsound.toml", out="out", device="cpu", told=heard.append)
    assert [(r.protocol, r.checkpoint.name, r.metrics["top1"].value) for r in records] == [("unsound", "floor", 100.0)]
    assert {e["event"] for e in heard} >= {"begun", "done", "failed"}
    err = capsys.readouterr().err
    assert "unsound of floor on digits has no record: input: image 7 is broken: mend it" in " ".join(err.split())


def test_mistakes_are_raised(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        dinobench.run_suite(tmp_path / "nowhere.toml")
