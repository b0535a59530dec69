"""Scores with intervals from counted pixels."""

from __future__ import annotations

import numpy as np
import pytest

from dinobench.algorithms.semantic_result import semantic_result
from dinobench.metrics.semantic import areas, scores


def test_scores_items_and_intervals():
    rng = np.random.default_rng(0)
    gt = rng.integers(0, 4, (9, 10, 12))
    pred = np.where(rng.random(gt.shape) < 0.6, gt, rng.integers(0, 4, gt.shape))
    counted = np.stack([areas(*pair, 5) for pair in zip(pred, gt, strict=True)])
    result = semantic_result([f"i{n}" for n in range(9)], counted)
    assert result.metrics == {name: 100 * value for name, value in scores(counted.sum(0)).items()}
    for name, (low, high) in result.intervals.items():
        assert 0 <= low < result.metrics[name] < high <= 100
    first = scores(counted[0])
    row = result.items.iloc[0]
    assert row["id"] == "i0" and row["labelled"] == 120
    assert row["image_iou"] == pytest.approx(first["mIoU"]) and row["image_acc"] == pytest.approx(first["aAcc"])
    assert not set(result.items) & set(result.metrics)  # columns of such names would be taken for what is averaged


def test_a_single_image_has_no_interval():
    one = np.array([[[3, 1], [4, 2], [5, 1]]])
    assert semantic_result(["i"], one).intervals == {}


def test_images_without_a_label_have_no_score():
    counted = np.array([[[3, 1], [4, 2], [5, 1]], np.zeros((2, 3)).T.astype(int)])
    result = semantic_result(["i", "j"], counted)
    assert np.isnan(result.items["image_iou"][1]) and np.isfinite(result.metrics["mIoU"])
