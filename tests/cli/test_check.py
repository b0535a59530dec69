from __future__ import annotations

import dataclasses
import json

import pandas as pd
from helpers.samples import record

from dinobench.results import records
from dinobench.types import MetricValue

ITEMS = pd.DataFrame({"id": list("abcd"), "top1@k20": [True, True, True, False]})


def written(folder, run_id):
    metrics = {"top1@k20": MetricValue(75.0, None, None, 4, "%")}
    return records.write(folder, record(run_id, metrics=metrics), ITEMS)


def test_old_records_are_upgraded_and_changed_ones_are_named(command, tmp_path):
    for name in ("sound", "old", "doctored", "swapped"):
        path = written(tmp_path, name)
    old = tmp_path / "runs" / "old.json"
    old.write_text(json.dumps({**json.loads(old.read_text()), "items_sha256": None}))
    assert command("check", tmp_path)[0] == 0
    code, _, err = command("check", tmp_path, "--upgrade")
    assert code == 0 and "1 records now hold the digest" in err
    assert records.read(tmp_path, "old").items_sha256 == records.read(tmp_path, "sound").items_sha256
    path = tmp_path / "runs" / "doctored.json"
    better = dataclasses.replace(records.read_file(path), metrics={"top1@k20": MetricValue(99.0, None, None, 4, "%")})
    path.write_text(records.to_json(better))
    ITEMS.iloc[::-1].to_parquet(tmp_path / "items" / "swapped.parquet", index=False)
    code, _, err = command("check", tmp_path)
    assert code == 1 and "doctored.json: top1@k20 is 99, the mean of its items 75" in err
    assert "swapped.json" in err and "another SHA-256" in err and "2 broken or contradicted" in err


def test_nobody_gives_a_verdict_on_what_its_items_contradict(command, tmp_path):
    for name in ("a", "b"):
        written(tmp_path, name)
    ITEMS.iloc[::-1].to_parquet(tmp_path / "items" / "b.parquet", index=False)
    code, out, err = command("compare", tmp_path, "--format", "csv")
    assert code == 0 and "b.json" in err and "another SHA-256" in err and out.count("\n") == 2
    assert records.read(tmp_path, "b") is None  # so that `run` scores it again
    code, _, err = command("explain", "a", "b", "--results", tmp_path)
    assert code == 2 and "another SHA-256" in err
    code, out, err = command("gate", tmp_path, "--baseline", tmp_path)
    assert "b.json" in out + err and code != 70
    code, _, err = command("leaderboard", tmp_path)
    assert code == 0 and "b.json: left out" in err
