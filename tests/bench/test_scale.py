"""The bench of many files runs, and leaves the cache folder as it was."""

from __future__ import annotations

import os

from dinobench import files
from dinobench.bench import scale


def test_every_step_is_measured_on_the_files_asked_for(monkeypatch):
    monkeypatch.setattr(scale, "CLASSES", 2)
    monkeypatch.setattr(scale, "LINKS", 7)
    monkeypatch.setattr(files, "SETTLED_NS", -1)
    monkeypatch.setattr(scale.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("DINOBENCH_CACHE", "as it was")
    rows = scale.scale(120)
    assert [row.what.rsplit(", ", 1) for row in rows] == [
        [what, "120 files"]
        for what in ("listing", "listing, hashes and labels", "the same again", "items written", "items read")
    ]
    assert os.environ["DINOBENCH_CACHE"] == "as it was"
