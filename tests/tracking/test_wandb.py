from __future__ import annotations

import sys
from types import SimpleNamespace

from helpers.samples import record

from dinobench.tracking.wandb import open_tracker


class Run:
    """A run of a stand-in for wandb, which keeps what it is given."""

    def __init__(self, given):
        self.given, self.summary, self.logged, self.finished = given, {}, [], 0

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


def test_a_run_has_an_id_of_its_name_and_ends(monkeypatch):
    runs = []
    made = SimpleNamespace(init=lambda **given: runs.append(Run(given)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", made)
    tracker = open_tracker("")
    tracker.record(record("one"))
    tracker.record(record("one"))
    tracker.epoch("dino", {"epoch": 1, "step": 10, "loss": 0.5, "note": "x"})
    tracker.epoch("dino", {"epoch": 2, "step": 20, "loss": 0.25})
    tracker.close()
    first, again, training = runs
    assert first.given["id"] == again.given["id"] != training.given["id"] and first.given["resume"] == "allow"
    assert (first.given["project"], first.given["name"]) == ("dinobench", "one") and first.given["config"]["seed"] == 0
    assert first.summary["knn/top1@k20"] == 74.512345678 and [run.finished for run in runs] == [1, 1, 1]
    assert training.logged[1] == (20, {"epoch": 2.0, "step": 20.0, "loss": 0.25})
