"""Values of steps come once each, in order, and no sooner than asked."""

from __future__ import annotations

import torch

from dinobench.training.step_values import StepValues


def test_the_last_steps_are_left_until_asked_for():
    values = StepValues(lag=1)
    for step in range(3):
        values.add(step, torch.tensor([step, 10.0 * step]))
    assert list(values.take()) == [(0, [0.0, 0.0]), (1, [1.0, 10.0])]
    assert not list(values.take())
    assert list(values.take(lag=0)) == [(2, [2.0, 20.0])]
