from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.samples import record
from helpers.writers import write_twice

from dinobench import registry
from dinobench.config import flat, limit_of, resolve_config, settings_of, with_limit
from dinobench.errors import UserError
from dinobench.hashing import canonical_json
from dinobench.inputs import ModelInput
from dinobench.results import records
from dinobench.results.items import read_items
from dinobench.runner import Evaluation
from dinobench.types import RunRecord


def test_round_trip(tmp_path):
    items = pd.DataFrame({"id": ["a", "b"], "right": [True, False], "score": [0.5, float("nan")]})
    path = records.write(tmp_path, record("one"), items)
    assert path == tmp_path / "runs" / "one.json"
    written = records.read(tmp_path, "one")
    assert written == record("one", items_sha256=written.items_sha256) and len(written.items_sha256) == 64
    back = read_items(tmp_path, written)
    assert back is not None
    pd.testing.assert_frame_equal(back, items)
    assert records.read_all(tmp_path) == ([written], [])


def test_what_was_never_written_is_none(tmp_path):
    assert records.read(tmp_path, "none") is None and read_items(tmp_path, record("none")) is None
    assert records.read_all(tmp_path) == ([], [])
    records.write(tmp_path, record("one"), None)
    assert read_items(tmp_path, record("one")) is None


def test_the_file_is_plain_json_in_the_order_of_the_type(tmp_path):
    raw = records.write(tmp_path, record(), None).read_bytes()
    assert raw.endswith(b"}\n") and b"\r" not in raw and "«élève» ✓".encode() in raw
    data = json.loads(raw)
    assert list(data) == [f.name for f in dataclasses.fields(record())]
    assert data["metrics"]["top1@k20"] == {
        "value": 74.512345678, "ci_low": 73.0, "ci_high": 76.0, "n": 450, "unit": "%",
    }  # fmt: skip


KEPT = ROOT / "results"
FOLDERS = [KEPT, *sorted(KEPT.glob("studies/*")), *sorted(KEPT.glob("studies/*/selection"))]
COMMITTED = [committed for folder in FOLDERS for committed in records.read_all(folder)[0]]


@pytest.mark.parametrize("committed", COMMITTED, ids=lambda r: r.run_id)
def test_committed_records_keep_their_names(committed):
    """Config hash and run id, computed anew from what a record holds, are those that it was written with.

    Records of an earlier version of their protocol stay what they are: numbers of that version.
    """
    protocol, (profile, *_) = registry.load(committed.protocol), committed.profile.split("+")
    known = settings_of(protocol.profiles[profile])
    settings = {name: value for name, value in committed.config.items() if name in known}
    given = {n: "none" if v == [] else v for n, v in settings.items()}
    resolved = with_limit(resolve_config(protocol, profile, given), limit_of(committed.profile))
    assert json.loads(canonical_json(flat(resolved.config))) == settings
    assert committed.protocol_version <= resolved.version(protocol)
    then = SimpleNamespace(name=protocol.name, version=committed.protocol_version)
    assert (resolved.profile, resolved.hash(then)) == (committed.profile, committed.config_hash)
    data = SimpleNamespace(name=committed.dataset, fingerprint=committed.dataset_fingerprint)
    backbone = SimpleNamespace(info=committed.checkpoint)
    evaluation = Evaluation(then, resolved, data, backbone, committed.seed, committed.precision)
    assert evaluation.run_id == committed.run_id


def test_settings_that_are_gone_decided_nothing():
    """What a committed record holds beyond its protocol's settings was never part of its hash."""
    gone = {
        (r.protocol, name)
        for r in COMMITTED
        for name in r.config.keys() - settings_of(registry.load(r.protocol).profiles[r.profile.split("+")[0]]).keys()
    }
    assert gone <= {("finetune", "save")}  # where the weights were kept, before `--save`


def test_fields_added_later_are_written_where_they_say_something(tmp_path):
    """A record of a model with ImageNet's input and the usual feature reads as before there were others."""
    assert {"input", "pool"}.isdisjoint(json.loads(records.to_json(record()))["checkpoint"])
    own = ModelInput((0.5, 0.5, 0.5), (0.25, 0.5, 0.5), "a file")
    told = record(checkpoint=dataclasses.replace(record().checkpoint, input=own, pool="mean"))
    data = json.loads(records.write(tmp_path, told, None).read_text())
    assert data["checkpoint"]["input"] == {"mean": [0.5] * 3, "std": [0.25, 0.5, 0.5], "origin": "a file"}
    assert records.read(tmp_path, told.run_id) == told
    for name, wrong in [("mean", [0.5] * 2), ("mean", "half"), ("std", [0, 1, 1]), ("std", [None] * 3), ("origin", 3)]:
        damaged = {**data["checkpoint"], "input": {**data["checkpoint"]["input"], name: wrong}}
        with pytest.raises(ValueError):
            records.from_dict({**data, "checkpoint": damaged})
    for wrong in ([], "x", 1):
        with pytest.raises(ValueError):
            records.from_dict({**data, "checkpoint": {**data["checkpoint"], "input": wrong}})


def test_files_are_for_sharing(tmp_path):
    mask = os.umask(0)
    os.umask(mask)
    assert records.write(tmp_path, record(), None).stat().st_mode & 0o777 == 0o666 & ~mask


def test_many_processes_writing_at_once_lose_nothing(tmp_path):
    """Fifty runs by four processes, all writing one and the same record in between."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(write_twice, [(str(tmp_path), i) for i in range(50)], chunksize=1)
    found, broken = records.read_all(tmp_path)
    assert not broken and {r.run_id for r in found} == {"same", *(f"run-{i}" for i in range(50))}
    assert all(read_items(tmp_path, r).id.tolist() == [r.run_id[4:]] for r in found if r.run_id != "same")
    assert not list(tmp_path.rglob(".*"))  # no temporary file stays


WHOLE = json.loads(records.to_json(record("whole")))
BROKEN = {
    "half": records.to_json(record())[:200],
    "empty": "",
    "text": "hello",
    "list": "[]",
    "other": '{"a": 1}',
    "binary": None,
    "newer": json.dumps({**WHOLE, "schema": 99}),
    "lacks": json.dumps({k: v for k, v in WHOLE.items() if k != "metrics"}),
    "words": json.dumps({**WHOLE, "metrics": {"top1": {**WHOLE["metrics"]["loss"], "value": "high"}}}),
    "null": json.dumps({**WHOLE, "notes": None}),
    "number": json.dumps({**WHOLE, "protocol": 3}),
    "checkpoint": json.dumps({**WHOLE, "checkpoint": "x.pth"}),
    "primary": json.dumps({**WHOLE, "primary": "top7"}),
    "deep": '{"schema": 1, "a": ' + "[" * 100_000,
    "surrogate": json.dumps({**WHOLE, "dataset": "\ud83d"}),
    "older": json.dumps({**WHOLE, "schema": 0}),
}


def test_broken_records_are_named_and_left_out(tmp_path):
    records.write(tmp_path, record("whole"), None)
    for name, text in BROKEN.items():
        data = b"\xff\xfe\x00\x80" if text is None else text.encode()
        (tmp_path / "runs" / f"{name}.json").write_bytes(data)
    (tmp_path / "runs" / "folder.json").mkdir()
    (tmp_path / "runs" / ".whole.json.abc.tmp").write_text("being written")
    found, broken = records.read_all(tmp_path)
    assert [r.run_id for r in found] == ["whole"]
    assert {path.stem for path, _ in broken} == {*BROKEN, "folder"}
    reasons = {path.stem: reason for path, reason in broken}
    assert "schema 99 is newer" in reasons["newer"] and "metrics" in reasons["lacks"] and "high" in reasons["words"]
    assert "top7" in reasons["primary"] and "schema 0" in reasons["older"]
    assert all(records.read(tmp_path, name) is None for name in BROKEN)


def test_a_later_field_is_no_fault_and_one_with_a_default_may_lack():
    data = {**WHOLE, "colour": "blue", "checkpoint": {**WHOLE["checkpoint"]}}
    del data["checkpoint"]["image_size"]
    assert records.from_dict(data) == record("whole")


def test_records_of_older_schemas_are_lifted_step_by_step(tmp_path, monkeypatch):
    """As if two changes had come since: a field got another name, then another unit."""
    monkeypatch.setattr(records, "SCHEMA", 3)
    monkeypatch.setitem(records.LIFTS, 1, lambda d: {**d, "duration_min": d["duration_m"]})
    monkeypatch.setitem(records.LIFTS, 2, lambda d: {**d, "duration_s": 60 * d["duration_min"]})
    old = {k: v for k, v in WHOLE.items() if k != "duration_s"}
    records.prepare(tmp_path)
    for name, fields in (("one", {"schema": 1, "duration_m": 2}), ("two", {"schema": 2, "duration_min": 3})):
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps({**old, **fields, "run_id": name}))
    records.write(tmp_path, record("three", schema=3), None)
    found, broken = records.read_all(tmp_path)
    assert not broken and [(r.run_id, r.schema, r.duration_s) for r in found] == [
        ("one", 3, 120), ("three", 3, 1.5), ("two", 3, 180),
    ]  # fmt: skip
    (tmp_path / "runs" / "half.json").write_text(json.dumps({**old, "schema": 1}))
    assert "not a whole run record" in records.read_all(tmp_path)[1][0][1]  # what a step needs is not there


@pytest.mark.parametrize("function", [records.prepare, lambda out: records.write(out, record(), None)])
def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path, function):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out: cannot write results: .*choose another --out"):
        function(tmp_path / "file" / "out")


def test_preparing_leaves_an_empty_folder(tmp_path):
    records.prepare(tmp_path / "out")
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "runs"]


@pytest.mark.slow
def test_many_processes_prepare_one_folder_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        pool.map(records.prepare, [tmp_path / "out"] * 200, chunksize=1)
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "runs"]


def test_a_record_that_was_read_is_written_in_the_order_of_its_fields(tmp_path):
    old = {k: v for k, v in json.loads(records.to_json(record())).items() if k not in ("leak", "lower_is_better")}
    again = records.to_json(records.from_dict(old))
    assert list(json.loads(again)) == [f.name for f in dataclasses.fields(RunRecord)]
    assert again == records.to_json(record())
