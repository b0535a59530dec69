"""What nobody trained before is timed on a few steps, once for those whose steps take as long."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.trained import TEXT, trained

from dinobench.errors import UserError
from dinobench.suite.training import measuring
from dinobench.suite.training.standing import look_at, planned


@pytest.fixture
def wanted(tmp_path, monkeypatch, own_cache):
    monkeypatch.chdir(tmp_path)
    suite = trained(tmp_path, TEXT.replace("[train.byol]", '[train.slow]\nlike = "dino"\nepochs = 9\n[train.byol]'))
    return planned(suite.trainings, look_at(suite.trainings), {"dino": 1, "slow": 1, "byol": 1})


def test_each_is_timed_once_and_brought_to_all_of_its_epochs(wanted, monkeypatch):
    timed = []
    monkeypatch.setattr(measuring, "seconds_of_epoch", lambda t, device: timed.append(t.name) or 3.0)
    pace = measuring.Pace("cpu")
    dino, slow, byol = (pace(one) for one in wanted)
    assert (dino.seconds, slow.seconds, byol.seconds) == (6.0, 27.0, 6.0) and timed == ["dino", "byol"]
    assert slow.basis == "timed here on a few steps (cpu)"


def test_what_cannot_be_timed_stays_unknown(wanted, monkeypatch):
    def refuse(training, device):
        raise UserError("no such device")

    monkeypatch.setattr(measuring, "seconds_of_epoch", refuse)
    assert measuring.Pace("cpu")(wanted[0]) == wanted[0] and wanted[0].seconds is None


def test_steps_are_taken_and_leave_nothing(wanted, tmp_path):
    training = wanted[0].training
    training = dataclasses.replace(training, settings={**training.settings, "batch": 4})
    assert measuring.seconds_of_epoch(training, "cpu") > 0
    assert not (tmp_path / "results").exists()
