"""Many records and many writers: a results folder that a team fills for a year."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.paths import TESTS
from helpers.samples import INFO, record

from dinobench.compare import table as compare
from dinobench.compare import writers
from dinobench.results import leaderboard, records
from dinobench.types import MetricValue

MANY = 10_000


def fill(results: Path, n: int) -> None:
    """`n` records of five models, ten protocols and forty data sets, with eight metrics each."""
    (results / "runs").mkdir(parents=True)
    base = json.loads(records.to_json(record()))
    for i in range(n):
        metrics = {f"top1@k{k}": {"value": (i + k) % 100, "ci_low": 1.0, "ci_high": 99.0, "n": 450, "unit": "%"}
                   for k in range(8)}  # fmt: skip
        at = {"protocol": f"p{i // 5 % 10}", "dataset": f"d{i // 50 % 40}", "config_hash": f"{i // 2000:064x}",
              "dataset_fingerprint": f"{i // 50 % 40:064x}"}  # fmt: skip
        info = {**base["checkpoint"], "name": f"m{i % 5}", "weights_digest": f"{i % 5:064x}"}
        one = {**base, **at, "run_id": f"r{i:05}", "metrics": metrics, "primary": "top1@k2", "checkpoint": info}
        (results / "runs" / f"r{i:05}.json").write_text(json.dumps(one, indent=2) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_ten_thousand_records_are_listed_and_compared(tmp_path):
    fill(tmp_path, MANY)
    (tmp_path / "runs" / "half.json").write_text('{"schema": 1,')
    path, rows, broken = leaderboard.build(tmp_path)
    assert len(rows) == 8 * MANY and [p.name for p, _ in broken] == ["half.json"]
    with open(path, encoding="utf-8") as file:
        assert sum(1 for _ in file) == 8 * MANY + 1
    table = compare.compare(records.read_all(tmp_path)[0])
    assert len(table.columns) == MANY / 5 and len(table.rows) == 5
    assert len(writers.to_csv(table).splitlines()) == MANY + 1


WRITERS = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import pandas as pd
import pyarrow.parquet
from helpers.samples import record
from dinobench.results import leaderboard, records

def write(results, number, start):
    start.wait()
    for i in range(3):
        items = pd.DataFrame({"id": ["x"], "right": [1.0]})
        records.write(results, record(f"run-{number}-{i}", seed=number), items if i == 0 else None)
        records.write(results, record("same", seed=number), None)
    leaderboard.rebuild(results)

fork = multiprocessing.get_context("fork")
start = fork.Barrier(50)
started = [fork.Process(target=write, args=(Path(sys.argv[2]), i, start)) for i in range(50)]
for process in started:
    process.start()
for process in started:
    process.join()
sys.exit(max(process.exitcode for process in started))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fifty interpreters take too long to start otherwise")
def test_fifty_processes_at_once_lose_nothing(tmp_path):
    """Real processes, each with three records of its own and one that all of them write; each rebuilds the board."""
    here = str(TESTS)
    done = subprocess.run([sys.executable, "-c", WRITERS, here, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    found, broken = records.read_all(tmp_path)
    wanted = {"same", *(f"run-{n}-{i}" for n in range(50) for i in range(3))}
    assert not broken and {r.run_id for r in found} == wanted
    assert len(list((tmp_path / "items").iterdir())) == 50
    written = (tmp_path / "leaderboard.csv").read_bytes()
    assert set(pd.read_csv(tmp_path / "leaderboard.csv").run_id) == wanted
    assert leaderboard.rebuild(tmp_path)[0].read_bytes() == written
    assert not list(tmp_path.rglob(".*"))


def test_a_wide_table_has_letters_for_all_its_notes():
    info = dataclasses.replace(INFO, name="m")
    found = [
        record(f"r{i}", checkpoint=info, profile=f"p+x={i}", config_hash=f"{i:064x}", dataset=f"d{i}",
               metrics={"top1": MetricValue(1.0, None, None, 1, "%")}, primary="top1")
        for i in range(60)
    ]  # fmt: skip
    table = compare.compare(found)
    letters = [mark for mark, _ in table.notes]
    assert len(set(letters)) == 60 and letters[:2] == ["a", "b"] and letters[26:28] == ["aa", "ab"]
