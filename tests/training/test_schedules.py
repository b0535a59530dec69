from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.training.schedules import cosine

GOLDEN = json.loads((GOLDEN / "numbers.json").read_text())["cosine_schedule"]


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda e: f"{e['epochs']} epochs, {e['warmup_epochs']} of warm-up")
def test_golden(entry):
    got = cosine(entry["base"], entry["final"], entry["epochs"], entry["steps_per_epoch"], entry["warmup_epochs"])
    np.testing.assert_allclose(got, entry["values"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_agrees_with_torch(epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=0)
    rates = []
    for _ in range(epochs):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(cosine(0.3, 0, epochs, 1), rates, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 20), st.integers(1, 9), st.integers(0, 20), st.floats(-1, 1)
)  # fmt: skip
def test_stays_between_its_ends(base, final, epochs, steps, warmup, start):
    if warmup > epochs:
        with pytest.raises(ValueError, match="warm-up"):
            cosine(base, final, epochs, steps, warmup, start)
        return
    values = cosine(base, final, epochs, steps, warmup, start)
    assert values.shape == (epochs * steps,)
    rest = values[warmup * steps :]
    assert (rest >= min(base, final) - 1e-12).all() and (rest <= max(base, final) + 1e-12).all()
    assert len(rest) == 0 or rest[0] == pytest.approx(base)
    if warmup:
        assert values[0] == pytest.approx(start)
