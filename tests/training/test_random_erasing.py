from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.training.random_erasing import Erasing, erase


@settings(deadline=None, max_examples=50)
@given(height=st.integers(8, 64), width=st.integers(8, 64), seed=st.integers(0, 2**31))
def test_erased_boxes_lie_inside_and_have_the_share_asked_for(height, width, seed):
    top, left, h, w, _ = Erasing(1.0).draw(height, width, np.random.default_rng(seed))
    if h:
        assert min(top, left) >= 0 and top + h <= height and left + w <= width
        assert 0.02 * height * width - max(height, width) <= h * w <= height * width / 3 + max(height, width)


def test_erasing_writes_noise_of_its_seed_into_its_box_only():
    x = torch.zeros(3, 3, 64, 64)
    boxes = torch.tensor([[2, 3, 40, 50, 7], [0, 0, 0, 0, 0], [2, 3, 40, 50, 7]], dtype=torch.float64)
    erase(x, boxes)
    assert torch.equal(x[0], x[2]) and not x[1].any()
    inside = x[0, :, 2:42, 3:53].clone()
    assert inside.mean().abs() < 0.05 and inside.std() == pytest.approx(1, abs=0.05)
    x[0, :, 2:42, 3:53] = 0
    assert not x[0].any()
    share = np.mean([Erasing(0.25).draw(32, 32, np.random.default_rng(i))[2] > 0 for i in range(2000)])
    assert share == pytest.approx(0.25, abs=0.03)
