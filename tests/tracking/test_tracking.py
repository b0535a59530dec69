from __future__ import annotations

import pytest
from helpers.samples import record

from dinobench import registry, tracking
from dinobench.errors import UserError
from dinobench.tracking import GROUP, Trackers, check, facts, numbers, open_trackers, scores


class Recorder:
    """A tracker that keeps what it is told, or fails at it."""

    def __init__(self, fails=False):
        self.told, self.fails = [], fails

    def record(self, record):
        self.told.append(record.run_id)
        if self.fails:
            raise ConnectionError("no route to host")

    def epoch(self, training, row):
        self.told.append((training, row["epoch"]))

    def close(self):
        self.told.append("closed")


def test_what_one_tracker_fails_at_the_others_and_the_run_do_not_notice(capsys):
    bad, good = Recorder(fails=True), Recorder()
    both = Trackers([("bad", bad), ("good", good)])
    both.records([record("one"), record("two")])
    both.records([record("two"), record("three")])
    both.epoch("dino", {"epoch": 3, "step": 9})
    both.close()
    assert good.told == bad.told == ["one", "two", "three", ("dino", 3), "closed"]
    err = capsys.readouterr().err
    assert "--track bad: one is not shown there (ConnectionError: no route to host)" in err and err.count("\n") == 3


def test_trackers_are_found_by_name(monkeypatch):
    assert {"tensorboard", "mlflow", "wandb"} <= registry.available(GROUP).keys()
    with pytest.raises(UserError, match="unknown tracker 'wandbb': did you mean 'wandb'"):
        check(["tensorboard=x", "wandbb=y"])
    opened = []

    def opener(target):
        opened.append(target)
        if target == "away":
            raise ConnectionError("no route to host")
        return Recorder()

    monkeypatch.setattr(tracking, "find", lambda kind, name, group: opener)
    open_trackers(["a=x=y", "a"]).close()
    assert opened == ["x=y", ""]
    with pytest.raises(UserError, match=r"--track a=away: cannot be opened \(ConnectionError: no route to host\)"):
        open_trackers(["a=away"])


def test_a_package_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r"--track wandb: .*pip install 'dinobench\[wandb\]'"):
        open_trackers(["wandb"])


def test_what_is_told_of_a_record():
    assert scores(record()) == {
        "knn/top1@k20": 74.512345678, "knn/top1@k20_ci_low": 73.0, "knn/top1@k20_ci_high": 76.0, "knn/loss": 0.125,
    }  # fmt: skip
    assert facts(record())["set.k"] == [10, 20] and facts(record())["model"] == "fake"
    assert numbers({"epoch": 1, "loss": 0.5, "note": "x", "done": True}) == {"epoch": 1.0, "loss": 0.5}
