from __future__ import annotations

import pytest
from helpers.samples import record

pytest.importorskip("tensorboard", reason="needs pip install 'dinobench[tensorboard]'")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dinobench.errors import UserError
from dinobench.tracking.tensorboard import EVENTS, open_tracker


def read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_records_and_curves_are_read_back(tmp_path):
    tracker = open_tracker(str(tmp_path / "board"))
    for _ in range(2):  # what comes twice is there once
        tracker.record(record("one"))
    for epoch in (1, 2):
        tracker.epoch("my dino", {"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, "note": "x"})
    tracker.close()
    assert len(list((tmp_path / "board" / "one").glob(EVENTS))) == 1
    found = read(tmp_path / "board" / "one")
    assert found["knn/top1@k20"] == [(0, pytest.approx(74.512345678, rel=1e-6))]
    assert found["knn/top1@k20_ci_low"] == [(0, 73.0)]
    assert read(next((tmp_path / "board").glob("my*")))["loss"] == [(10, 1.0), (20, 0.5)]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        open_tracker(str(tmp_path / "file" / "below"))
