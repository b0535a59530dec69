"""Corruption error, mean per class and 11-point precision: the programs' values, another library's, what must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.golden import golden_values
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve

from dinobench.metrics.classification import label_rank
from dinobench.metrics.robustness import (
    ALEXNET,
    ALEXNET_EXTRA,
    LEVELS,
    macro_accuracy,
    map11,
    map11_dinov3,
    map11_intervals,
    mce,
    mce_dinov3,
    mean_per_class,
)

VALUES = golden_values("robustness")


@pytest.mark.parametrize("golden", VALUES["mce"], ids=lambda g: g["seed"])
def test_mce_meets_the_golden_values(golden):
    r = np.random.default_rng(golden["seed"])
    names = sorted(name.upper() for name in ALEXNET | ALEXNET_EXTRA)
    acc = {name: [r.random() for _ in range(LEVELS)] for name in names}
    assert 100 * mce(acc) == pytest.approx(golden["mce_15_standard"], abs=1e-4)
    assert 100 * mce_dinov3(acc) == pytest.approx(golden["mce_19_as_dinov3"], abs=1e-4)
    fifteen = {name: acc[name.upper()] for name in ALEXNET}
    assert mce(fifteen) == mce_dinov3(fifteen) == mce(acc)
    assert 100 * np.mean([1 - np.mean(a) for a in fifteen.values()]) == pytest.approx(golden["mean_top1_error_15"])


def test_mce_says_what_is_missing():
    whole = dict.fromkeys(ALEXNET, [0.5] * LEVELS)
    with pytest.raises(ValueError, match="no accuracies under fog"):
        mce({name: levels for name, levels in whole.items() if name != "fog"})
    with pytest.raises(ValueError, match="snow: accuracies at 5 levels"):
        mce(whole | {"snow": [0.5] * 4})
    with pytest.raises(ValueError, match="none of the corruptions"):
        mce_dinov3({"rain": [0.5] * LEVELS})


@pytest.mark.parametrize("golden", VALUES["map_voc2007"], ids=lambda g: g["seed"])
def test_map11_meets_the_golden_values(golden):
    r, shape = np.random.default_rng(golden["seed"]), (golden["n"], golden["classes"])
    y = r.random(shape) < 0.25
    y[:, 0] = False
    y[3, 0] = True
    scores = np.round(r.random(shape) * 0.6 + 0.4 * y * r.random(shape), 2)
    assert 100 * map11(scores, y) == pytest.approx(golden["own_11_point"], abs=1e-4)
    assert 100 * map11_dinov3(scores, y) == pytest.approx(golden["dinov3_map_voc2007"], abs=1e-4)


@given(st.integers(0, 10**6), st.integers(2, 40))
def test_map11_is_that_of_the_curve_of_another_library_and_of_no_more_than_the_order(seed, n):
    r = np.random.default_rng(seed)
    y = r.random((n, 3)) < 0.3
    y[0] = True
    scores = np.round(r.random((n, 3)), 1)
    precisions = []
    for c in range(3):
        precision, recall, _ = precision_recall_curve(y[:, c], scores[:, c])
        precision, recall = precision[:-1], recall[:-1]  # less its closing point
        precisions += [precision[recall >= k / 10 - 1e-9].max() for k in range(11)]
    assert map11(scores, y) == pytest.approx(np.mean(precisions))
    assert map11(np.exp(scores), y) == map11(scores, y) <= map11_dinov3(scores, y)


def test_map11_leaves_out_classes_without_positives():
    scores, y = np.array([[0.9, 0.1], [0.1, 0.2]]), np.array([[1, 0], [0, 0]])
    assert map11(scores, y) == 1
    with pytest.raises(ValueError, match="no class has a positive"):
        map11(scores, 0 * y)
    with pytest.raises(ValueError, match="not finite"):
        map11(scores * np.nan, y)
    with pytest.raises(ValueError, match="both"):
        map11(scores[:1], y)


def test_images_that_do_not_count_for_a_class_are_as_if_not_there():
    r = np.random.default_rng(5)
    scores, y, counted = np.round(r.random((40, 2)), 1), r.random((40, 2)) < 0.4, r.random((40, 2)) < 0.8
    alone = [map11(scores[counted[:, [c]].all(axis=1)][:, [c]], y[counted[:, c]][:, [c]]) for c in range(2)]
    assert map11(scores, y, counted) == pytest.approx(np.mean(alone))
    assert map11(scores, y, np.ones((40, 2), bool)) == map11(scores, y)


def test_intervals_are_those_of_scores_of_resampled_images():
    r = np.random.default_rng(6)
    y = r.random((60, 2)) < 0.4
    scores = np.round(y + r.standard_normal((60, 2)), 1)
    found = map11_intervals(scores, y, resamples=120, seed=3)
    again = np.random.default_rng(3)
    times = np.concatenate([again.multinomial(60, np.full(60, 1 / 60), size=n) for n in (50, 50, 20)])
    drawn = [np.repeat(np.arange(60), row) for row in times]
    for bounds, score in zip(found, (map11, map11_dinov3), strict=True):
        value, low, high = score(scores, y), *np.quantile([score(scores[i], y[i]) for i in drawn], [0.025, 0.975])
        assert bounds == pytest.approx((min(value, 2 * value - high), min(1.0, max(value, 2 * value - low))))
        assert bounds[0] < value < bounds[1]


@pytest.mark.parametrize("golden", VALUES["per_class"], ids=lambda g: g["seed"])
def test_mean_per_class_meets_the_golden_values(golden):
    r, n, classes = np.random.default_rng(golden["seed"]), golden["n"], golden["classes"]
    y = np.minimum(r.geometric(0.25, n) - 1, classes - 2)
    scores = r.standard_normal((n, classes)) + 1.5 * np.eye(classes)[y]
    pred, ranks = scores.argmax(1), label_rank(torch.from_numpy(scores), torch.from_numpy(y)).numpy()
    assert 100 * (pred == y).mean() == pytest.approx(golden["top1_dinov3"]["top-1"], abs=1e-4)
    assert 100 * macro_accuracy(pred, y) == pytest.approx(golden["mean_per_class_dinov3"]["top-1"], abs=1e-4)
    assert 100 * mean_per_class(pred, y) == pytest.approx(golden["mean_per_class_over_present_classes"], abs=1e-4)
    among5 = np.where(ranks < 5, y, pred)  # torchmetrics misses no class that y lacks when five may be chosen
    assert 100 * mean_per_class(among5, y) == pytest.approx(golden["mean_per_class_dinov3"]["top-5"], abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_mean_per_class_is_balanced_accuracy(pairs):
    pred, y = np.array(pairs).T
    if set(pred) <= set(y) and len(set(y)) > 1:
        assert mean_per_class(pred, y) == pytest.approx(balanced_accuracy_score(y, pred)) == macro_accuracy(pred, y)
    assert macro_accuracy(pred, y) <= mean_per_class(pred, y) + 1e-12  # sums in two orders


def test_mean_per_class_needs_images():
    with pytest.raises(ValueError, match="at least one"):
        mean_per_class(np.array([], int), np.array([], int))
