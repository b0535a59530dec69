"""The released schedules, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.golden import golden_values

from dinobench.dense.rates import one_cycle, poly

NEXT = golden_values("segmentation")


def test_dinov3s_rates():
    golden = next(value for name, value in NEXT.items() if name.startswith("lr_dinov3_ade20k"))
    rates = one_cycle(1e-3, 40_000, 1500, 1e-6)
    for step, known in golden.items():
        assert rates[int(step)] == pytest.approx(known["lr"], rel=1e-9)


def test_dinov2s_rates():
    golden = next(value for name, value in NEXT.items() if name.startswith("lr_dinov2"))
    rates = poly(1e-3, 40_000, 1500, 1e-6)
    for step, known in golden.items():
        assert rates[int(step)] == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize("schedule", [poly, one_cycle])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (10, 0), (7, 7), (30, 5)])
def test_rates_of_short_runs_are_positive_and_bounded(schedule, steps, warmup):
    rates = schedule(2e-3, steps, warmup, 1e-6)
    assert rates.shape == (steps,) and np.isfinite(rates).all()
    assert rates.max() <= 2e-3 and rates.min() >= 0
