"""The table of benches: each can be found, none is measured here."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch

from dinobench.bench import BENCHES, measure_bench, retrieval
from dinobench.bench.dense import discovery
from dinobench.bench.measure import anonymous_mb
from dinobench.context import LocalContext
from dinobench.errors import UserError


@pytest.mark.parametrize("place", BENCHES.values(), ids=BENCHES)
def test_a_bench_is_where_the_table_has_it(place):
    module, _, function = place.partition(":")
    bench = getattr(import_module(f"dinobench.bench.{module}"), function)
    required = [p.name for p in inspect.signature(bench).parameters.values() if p.default is p.empty]
    assert not set(required) - {"arch", "images", "repeats", "scale", "cells", "device"}  # what the command can hand on


def test_an_unknown_bench_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown bench 'kn': did you mean 'knn'"):
        measure_bench("kn")


def test_the_searches_beside_ours_agree_on_what_they_measure():
    """Small, for its rows alone: which of them there are, and that each is a ratio of two measured times."""
    rows = measure_bench("knn", repeats=1, queries=40, few=8, train=500, width=16, classes=5)
    assert [row.what.split(" queries")[0] for row in rows[:2]] == ["40", "8"]
    assert {"lightly's way", "solo-learn's way", "scikit-learn, search alone"} <= {
        row.limit.partition("each, ")[2] for row in rows[2:]
    }
    assert all(row.ratio > 0 and row.met is not None for row in rows)


@pytest.mark.skipif(anonymous_mb() is None, reason="memory is read from /proc")
def test_memory_at_a_share_of_the_scale():
    time, memory = measure_bench("memory", scale=0.0002, train=3000, width=8)
    assert time.what.startswith("10 queries over 3,000 x 8") and memory.ours.endswith("MB")


@pytest.mark.skipif(anonymous_mb() is None, reason="memory is read from /proc")
def test_a_regressions_memory_at_two_numbers_of_images():
    beside, whole = measure_bench("logreg", few=300, many=600, classes=3)
    assert beside.what.startswith("logreg, 3 classes, 600 x 384") and beside.limit.endswith("MB at 300")
    assert whole.limit == "3.9 GB features" and whole.ratio >= 1  # 1,281,167 x 384 doubles


def test_intervals_of_items_and_of_groups_beside_the_draws():
    items, groups = measure_bench("intervals", repeats=1, scores=5000)
    assert items.what == "interval of 5,000 distinct scores" and items.ratio > 0
    assert groups.what == "interval of 25,000 scores in groups of 5 on average" and groups.limit == items.limit


def test_leave_one_out_beside_the_product():
    row = retrieval.labelled(1, LocalContext(torch.device("cpu")), images=300, width=8, queries=20)
    assert row.what.startswith("retrieval, leave-one-out, 20 queries among 300 x 8") and row.ratio > 0


def test_object_discovery_beside_the_dense_solver():
    row = discovery.eigenvector(1, patches=60, dim=16)
    assert row.what == "tokencut's eigenvector, 60 patches" and row.ratio > 0
