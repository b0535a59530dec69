"""What is remembered of records and items is believed only while both are as they were."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from helpers.samples import record

from dinobench import files
from dinobench.results import items, listing, records, vouched
from dinobench.types import MetricValue


@pytest.fixture
def folder(tmp_path, monkeypatch, own_cache):
    monkeypatch.setattr(files, "SETTLED_NS", -(10**12))  # as if all had been at rest for long
    run = record("r", metrics={"top1": MetricValue(50.0, None, None, 2, "%")}, primary="top1")
    records.write(tmp_path / "results", run, pd.DataFrame({"id": ["a", "b"], "top1": [1.0, 0.0]}))
    return tmp_path / "results"


@pytest.fixture
def reads(monkeypatch):
    """Run ids whose items are read."""
    seen = []
    real = items.contradiction
    monkeypatch.setattr(vouched, "contradiction", lambda results, run: seen.append(run.run_id) or real(results, run))
    return seen


def test_items_are_read_once_and_afresh_when_asked(folder, reads):
    for _ in range(2):
        found, broken = listing.read_folder(folder)
        assert [r.run_id for r in found] == ["r"] and not broken
    assert reads == ["r"]
    listing.read_folder(folder, afresh=True)
    assert reads == ["r", "r"]


def test_other_items_and_another_record_are_read_again(folder, reads):
    [run], _ = listing.read_folder(folder)
    path = items.path_of(folder, "r")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"x")
    assert "r.json" in str(listing.read_folder(folder)[1][0][0])
    path.write_bytes(content)
    assert not listing.read_folder(folder)[1]
    boast = dataclasses.replace(run, metrics={"top1": MetricValue(99.0, None, None, 2, "%")})
    (folder / "runs" / "r.json").write_text(records.to_json(boast))
    assert "the mean of its items 50" in listing.read_folder(folder)[1][0][1]


def test_items_that_are_not_there_are_not_looked_for_and_staged_ones_are(folder, reads):
    [run] = listing.read_folder(folder)[0]
    own, staged = (folder / "items" / name for name in items.names_of(run))
    reads.clear()
    own.rename(staged)  # a process was killed between the record and its items' last name
    assert listing.read_folder(folder) == ([run], []) and reads == [run.run_id]
    staged.unlink()
    reads.clear()
    assert listing.read_folder(folder) == ([run], []) and not reads
    (folder / "items").rmdir()
    assert listing.read_folder(folder) == ([run], []) and not reads


def test_what_changed_a_moment_ago_is_not_believed(folder, reads, monkeypatch):
    monkeypatch.setattr(files, "SETTLED_NS", 10**15)
    for _ in range(2):
        listing.read_folder(folder)
    assert reads == ["r", "r"]


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"r": 5}', '{"r": [1]}', "[" * 100_000])
def test_a_damaged_memory_is_none(folder, reads, damage):
    listing.read_folder(folder)
    [memory] = (files.cache_root() / "checked").iterdir()
    memory.write_text(damage)
    vouched._remembered.cache_clear()
    assert [r.run_id for r in listing.read_folder(folder)[0]] == ["r"] and reads == ["r", "r"]


def test_facts_of_items_go_with_the_items(folder, reads):
    [run], _ = listing.read_folder(folder)
    found = []
    for _ in range(2):
        facts = vouched.Facts(folder)
        assert facts.of([run], "first", lambda: found.append(1) or [0.5]) == [0.5]
        facts.keep()
    assert len(found) == 1
    assert vouched.Facts(folder).of([run], "second", lambda: found.append(1) or True) is True and len(found) == 2
    items.path_of(folder, "r").touch()
    vouched.Facts(folder).of([run], "first", lambda: found.append(1) or [0.5])
    assert len(found) == 3
