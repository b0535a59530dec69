"""The table of benches: each can be found, none is measured here."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from dinobench.bench import BENCHES, measure_bench
from dinobench.errors import UserError


@pytest.mark.parametrize("place", BENCHES.values(), ids=BENCHES)
def test_a_bench_is_where_the_table_has_it(place):
    module, _, function = place.partition(":")
    bench = getattr(import_module(f"dinobench.bench.{module}"), function)
    required = [p.name for p in inspect.signature(bench).parameters.values() if p.default is p.empty]
    assert not set(required) - {"arch", "images", "repeats", "device"}  # what the command can hand on


def test_an_unknown_bench_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown bench 'kn': did you mean 'knn'"):
        measure_bench("kn")
