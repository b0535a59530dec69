"""The bench of in-context search, small, for its rows alone."""

from __future__ import annotations

from dinobench.bench import measure_bench


def test_rows_are_ratios_of_measured_times():
    search, *memory = measure_bench("incontext", repeats=1, rows=3000, width=16, queries=40)
    assert search.what == "incontext, 40 patches among 3,000 x 16, k = 30"
    assert search.ratio > 0 and search.met is not None
    assert all(row.ours.endswith("MB") for row in memory)
