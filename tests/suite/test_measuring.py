"""Timings of short runs are brought to the whole; nothing here is timed but pretended."""

from __future__ import annotations

import dataclasses

import pytest

from dinobench.errors import UserError
from dinobench.suite import measuring, standing
from dinobench.suite.plan import cells_of, plan

TEXT = """\
[models]
a = "a.pth"
b = "b.pth"
[[run]]
protocol = "knn"
"""


@pytest.fixture
def timed(monkeypatch, remembered, suite):
    """Pretends runs that take a second and a tenth for each of `limit` items; the runs that there were."""
    remembered("a", "a.pth"), remembered("b", "b.pth")
    now, runs = [0.0], []

    def run(protocol, ckpt, data, *, limit, **options):
        runs.append((protocol, ckpt, limit, options["out"]))
        now[0] += 1 + limit / 10
        return [1]

    monkeypatch.setattr(measuring, "run", run)
    monkeypatch.setattr(measuring.time, "monotonic", lambda: now[0])
    return suite(TEXT), runs


def test_cells_of_one_architecture_are_timed_once_and_brought_to_all_images(timed):
    spec, runs = timed
    found = plan(spec, measure="cpu")
    assert [r[2] for r in runs] == [32, 32, 128] and {r[3] for r in runs} == {None}
    # 64 items of both splits took 4.2 s and 256 took 13.8 s: 0.05 s each and 1 s for all
    assert [c.seconds for c in found.cells] == pytest.approx([1 + 0.05 * 1797] * 2)
    assert found.cells[0].basis == "timed here on 256 of 1,797 items (cpu)" and not found.unknown


def test_what_takes_long_is_run_once(timed, monkeypatch):
    spec, runs = timed
    monkeypatch.setattr(measuring, "ENOUGH", 1.0)
    found = plan(spec, measure="cpu")
    assert len(runs) == 1 and found.cells[0].seconds == pytest.approx(4.2 * 1797 / 64)


def test_what_cannot_be_run_stays_unknown(timed, monkeypatch, capsys):
    spec, _ = timed

    def refuse(*args, **options):
        raise UserError("no")

    monkeypatch.setattr(measuring, "run", refuse)
    found = plan(spec, measure="cpu")
    assert found.unknown == 2 and "can't be timed: no" in capsys.readouterr().err
    monkeypatch.setattr(measuring, "run", lambda *args, **options: [])
    assert plan(spec, measure="cpu").unknown == 2


def test_a_limited_suite_is_timed_on_no_more_than_it_takes(timed):
    spec, runs = timed
    (cell, *_) = cells_of(dataclasses.replace(spec, limit=16))
    (evaluation,) = standing._Lookup(spec, [cell]).evaluations()[cell.key].values()
    seconds, basis = measuring.Stopwatch("cpu")(cell, evaluation)
    assert [r[2] for r in runs] == [16] and seconds == pytest.approx(2.6) and "32 of 32 items" in basis
