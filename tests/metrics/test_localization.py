from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from dinobench.metrics.localization import best_iou, box_ious


def boxes(rng, n):
    corners = rng.integers(0, 200, (n, 2))
    return np.concatenate([corners, corners + rng.integers(1, 150, (n, 2))], axis=1)


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12))
def test_overlap_is_torchvisions(seed, n):
    rng = np.random.default_rng(seed)
    truths, box = boxes(rng, n), boxes(rng, 1)[0]
    want = box_iou(torch.from_numpy(box[None]).double(), torch.from_numpy(truths).double())[0].numpy()
    np.testing.assert_allclose(box_ious(box, truths), want, atol=1e-6)
    assert best_iou(box, truths) == box_ious(box, truths).max()
    shift = np.tile(rng.integers(0, 50, 2), 2)
    np.testing.assert_allclose(box_ious(box + shift, truths + shift), want, atol=1e-6)
    assert box_ious(box, box[None])[0] > 1 - 1e-6


def test_a_box_without_area_overlaps_nothing():
    assert box_ious(np.array([3, 3, 3, 3]), np.array([[3, 3, 3, 3], [0, 0, 9, 9]])).tolist() == [0, 0]
