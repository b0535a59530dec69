"""DINO's loss and centre against the reference's, and by plain sums."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dinobench.pretrain.methods.dino_loss import (
    Center,
    cross_entropy,
    sinkhorn,
    squared_error,
    teacher_temperature,
)

CASES = json.loads((GOLDEN / "numbers.json").read_text())["dino_loss"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['n_crops']} crops")
def test_loss_and_center_of_the_reference(case):
    rng = np.random.default_rng(case["seed"])
    batch, k = case["batch"], case["out_dim"]
    centering = Center(k, 0.9)
    losses = []
    for epoch in range(5):
        student = torch.from_numpy(2 * rng.standard_normal((case["n_crops"] * batch, k)).astype(np.float32))
        teacher = torch.from_numpy(2 * rng.standard_normal((2 * batch, k)).astype(np.float32))
        temperature = teacher_temperature(
            epoch, case["warmup_teacher_temp"], case["teacher_temp"], case["warmup_teacher_temp_epochs"]
        )
        targets = ((teacher - centering.center) / temperature).softmax(-1).unflatten(0, (2, batch))
        losses.append(float(cross_entropy(targets, student.unflatten(0, (-1, batch)) / 0.1)))
        centering.add(teacher)
        centering.update()
    assert losses == pytest.approx(case["losses"], rel=1e-4)
    center = centering.center[0]
    assert float(center.sum()) == pytest.approx(case["center_sum"], rel=1e-4)
    assert float(center.norm()) == pytest.approx(case["center_l2"], rel=1e-4)
    assert center[:4].tolist() == pytest.approx(case["center_first4"], rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.integers(2, 7), st.integers(0, 999))
def test_losses_are_means_over_the_pairs_of_different_views(teachers, students, batch, k, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(teachers, batch, k, generator=generator).double()
    logits = torch.randn(students, batch, k, generator=generator).double()
    pairs = [(t, s) for t in range(teachers) for s in range(students) if s != t]
    probabilities = targets.softmax(-1)
    each = [-(probabilities[t] * logits[s].log_softmax(-1)).sum(-1).mean() for t, s in pairs]
    assert float(cross_entropy(probabilities, logits)) == pytest.approx(float(sum(each)) / len(pairs), rel=1e-9)
    cosines = [F.cosine_similarity(targets[t], logits[s], dim=-1).mean() for t, s in pairs]
    expected = 2 - 2 * float(sum(cosines)) / len(pairs)
    assert float(squared_error(targets, logits)) == pytest.approx(expected, rel=1e-9)


def test_a_step_in_parts_ends_with_the_center_of_a_whole_one():
    outputs = torch.randn(12, 5)
    whole, parts = Center(5, 0.9), Center(5, 0.9)
    whole.add(outputs)
    for part in outputs.split([5, 4, 3]):
        parts.add(part)
    for one in (whole, parts):
        one.update()
    torch.testing.assert_close(parts.center, whole.center)
    torch.testing.assert_close(whole.center[0], 0.1 * outputs.mean(0))
    assert set(whole.state_dict()) == {"center"}


def test_sinkhorn_uses_every_output_equally():
    q = sinkhorn(torch.randn(64, 8) * 30, iterations=300)  # a temperature at which exp overflows
    torch.testing.assert_close(q.sum(1), torch.ones(64))
    torch.testing.assert_close(q.sum(0), torch.full((8,), 8.0), rtol=0.05, atol=0)


def test_teacher_temperature():
    rise = [teacher_temperature(e, 0.04, 0.07, 30) for e in range(40)]
    assert rise == pytest.approx([*np.linspace(0.04, 0.07, 30), *[0.07] * 10])
    assert teacher_temperature(0, 0.04, 0.07, 0) == 0.07
