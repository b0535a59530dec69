"""Windows and their merging: the release's values, and its way of merging at full size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.golden import golden_values
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dinobench.algorithms.sliding_window import merge, sliding_windows, winners

CASES = golden_values("segmentation")["slide"]


def as_released(maps, windows, size):
    """Every window at its own pixels, added up, divided by the count, resized: the plain way."""
    height, width = windows.size
    total, count = torch.zeros(1, maps.shape[1], height, width), torch.zeros(height, width)
    pairs = [(row, column) for row in windows.rows for column in windows.columns]
    for one, ((top, bottom), (left, right)) in zip(maps, pairs, strict=True):
        shown = F.interpolate(one[None], size=(bottom - top, right - left), mode="bilinear", align_corners=False)
        total[..., top:bottom, left:right] += shown
        count[top:bottom, left:right] += 1
    return F.interpolate(total / count, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case["size"])))
def test_the_released_windows_and_what_is_merged_of_them(case):
    height, width = case["size"]
    windows = sliding_windows(height, width, case["crop"], case["stride"])
    assert [[*row, *column] for row in windows.rows for column in windows.columns] == case["windows_y1_y2_x1_x2"]
    rng = np.random.default_rng(height * 1000 + width)
    cut = windows.cut(torch.from_numpy(rng.standard_normal((1, 3, height, width)).astype(np.float32)))
    h, w = cut.shape[2:]
    row, column = torch.arange(h)[:, None] / h, torch.arange(w) / w
    answers = [torch.stack([row.expand(h, w), column.expand(h, w), one.mean().expand(h, w)]) for one in cut]
    merged = merge(torch.stack(answers), windows, (height, width))[0]
    for (y, x), values in zip(case["points"], case["values"], strict=True):
        np.testing.assert_allclose(merged[:, y, x], values, atol=1e-6)
    np.testing.assert_allclose(merged.double().mean((1, 2)), case["means"], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(9, 60), st.integers(9, 60)), out=st.tuples(st.integers(3, 70), st.integers(3, 70)),
    crop=st.integers(8, 40), share=st.floats(0.3, 1), cells=st.integers(1, 6), square=st.booleans(),
)  # fmt: skip
def test_merging_is_what_the_full_size_maps_give(size, out, crop, share, cells, square):
    windows = sliding_windows(*size, crop, max(1, int(share * crop)), square)
    maps = torch.randn(len(windows), 3, cells, cells + 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(merge(maps, windows, out), as_released(maps, windows, out), atol=1e-4, rtol=1e-4)


def test_no_pixel_is_unseen_where_the_window_shrinks_below_the_stride():
    windows = sliding_windows(100, 500, 512, 341)
    seen = np.zeros(500, int)
    for left, right in windows.columns:
        seen[left:right] += 1
    assert seen.min() >= 1 and windows.rows == ((0, 100),)
    assert sliding_windows(100, 500, 512, 341, square=False).columns == ((0, 500),)


def test_several_images_at_once():
    windows = sliding_windows(20, 33, 16, 11)
    x = torch.randn(3, 5, 20, 33)
    torch.testing.assert_close(merge(windows.cut(x), windows, (20, 33)), x, atol=1e-5, rtol=1e-5)


def test_the_largest_score_wins_and_of_equals_the_first():
    scores = torch.randint(0, 3, (2, 7, 9, 8)).float()
    np.testing.assert_array_equal(winners(scores), scores.numpy().argmax(1))
