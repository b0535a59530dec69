from statistics import mean

import pytest
import torch
from helpers.golden import golden_values
from hypothesis import given
from hypothesis import strategies as st

from dinobench.dense.depth.schedules import Schedule

RELEASE = next(value for name, value in golden_values("segmentation").items() if name.startswith("lr_dinov3_nyu"))


def test_dinov3_rate_and_moment_are_the_releases():
    schedule = Schedule("dinov3", 3e-4, 38_400, 12_800)
    for step, expected in RELEASE.items():
        lr, beta1 = schedule(int(step))
        assert lr == pytest.approx(expected["lr"], rel=1e-9)
        assert beta1 == pytest.approx(expected["beta1"], rel=1e-9)


def test_dinov2_is_a_cosine_under_a_warm_up_with_a_cycle_of_the_moment():
    """The cosine by torch's scheduler, the cycle by torch's OneCycleLR, whose two phases end where mmcv's do."""
    steps, warmup, lr = 200, 40, 5e-3
    schedule = Schedule("dinov2", lr, steps, warmup)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    falling = torch.optim.SGD(parameters, lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(falling, steps, eta_min=lr * 1e-8)
    cycled = torch.optim.AdamW(parameters, lr=lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(cycled, lr, steps, pct_start=0.3)
    for step in range(steps):
        rate = falling.param_groups[0]["lr"]
        if step < warmup:
            rate *= 1 - (1 - step / warmup) * (1 - 1e-3)
        assert schedule(step).lr == pytest.approx(rate, rel=1e-6)
        assert schedule(step).beta1 == pytest.approx(cycled.param_groups[0]["betas"][0], rel=1e-9)
        for optimizer, scheduler in ((falling, cosine), (cycled, cycle)):
            optimizer.step()
            scheduler.step()


@given(st.sampled_from(["dinov2", "dinov3", "cosine"]), st.integers(1, 60), st.integers(0, 59))
def test_every_step_of_a_short_training_has_a_rate(kind, steps, warmup):
    warmup = min(warmup, steps - 1)
    sizes = [Schedule(kind, 1.0, steps, warmup)(i) for i in range(steps)]
    assert all(0 < size.lr <= 1.001 for size in sizes)
    assert all(size.beta1 is None or 0 <= size.beta1 < 1 for size in sizes)
    assert mean(size.lr for size in sizes) > 0
