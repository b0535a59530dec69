from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from helpers.kills import killed_at_every_step
from helpers.runs import run

from dinobench.results import comparability, leaderboard, records
from dinobench.results.items import read_items

OLD, NEW, OTHER = [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]
RUN = "knn-model-digits"


def state(folder: Path) -> tuple[float, ...] | None:
    """The items of the run under test, which every reader agrees on; None without a record."""
    listed, broken = records.read_all(folder)
    assert not broken
    one = {r.run_id: r for r in listed}.get(RUN)
    assert records.read(folder, RUN) == one
    assert [r.run_id for r in comparability.read_records(folder)[0]] == [r.run_id for r in listed]
    if one is None:
        return None
    items = read_items(folder, one)
    assert items is not None and one.metrics[one.primary].value == 100 * items[one.primary].mean()
    return tuple(items[one.primary])


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, OLD], ids=["new", "again"])
def test_killed_while_writing_a_run(tmp_path, before):
    def prepare(folder):
        run(folder, "other", OTHER)
        if before is not None:
            run(folder, "model", before)
        leaderboard.build(folder)

    seen = set()

    def check(folder, step):
        seen.add(state(folder))
        _, kept, broken = leaderboard.build(folder)
        assert not broken and len(kept) == 1 + (state(folder) is not None)
        for file in folder.rglob(".*"):  # as if found two hours later
            os.utime(file, (time.time() - 7200,) * 2)
        run(folder, "model", NEW)
        leaderboard.build(folder)
        assert state(folder) == tuple(NEW)
        assert not list(folder.rglob(".*")), step

    steps = killed_at_every_step(prepare, lambda folder: run(folder, "model", NEW), check, tmp_path / "runs")
    assert steps > 10 and seen == {None if before is None else tuple(before), tuple(NEW)}


def test_killed_while_rebuilding_the_leaderboard(tmp_path):
    def prepare(folder):
        run(folder, "other", OTHER)
        leaderboard.build(folder)
        run(folder, "model", OLD)

    lengths = set()

    def check(folder, step):
        lengths.add(len((folder / "leaderboard.csv").read_text().splitlines()))
        for file in folder.rglob(".*"):
            os.utime(file, (time.time() - 7200,) * 2)
        leaderboard.build(folder)
        assert len((folder / "leaderboard.csv").read_text().splitlines()) == 3
        assert not list(folder.rglob(".*")), step

    killed_at_every_step(prepare, leaderboard.build, check, tmp_path / "boards")
    assert lengths == {2, 3}
