"""Mean IoU and accuracies: golden values, scikit-learn's confusion matrix, and what must always hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from helpers.golden import golden_values
from helpers.semantic import drawn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dinobench.metrics.semantic import areas, areas_of, class_accuracy, class_iou, confusion, matched_miou, scores

CASES = golden_values("segmentation")["metrics"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed {case['seed']}")
@pytest.mark.parametrize("reduced", [False, True])
def test_golden(case, reduced):
    classes, images = case["classes"], list(drawn(case))
    if reduced:
        classes -= 1
        images = [
            (np.where((gt == 0) | (gt == 255), 255, gt - 1).astype(np.uint8), np.maximum(pred.astype(int) - 1, 0))
            for gt, pred in images
        ]
    counted = np.sum([areas(pred, gt, classes) for gt, pred in images], axis=0)
    wanted = case["reduce_zero_label" if reduced else "all_labels"]
    found = scores(counted)
    for name, value in wanted["mmseg_0.30"].items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    assert found["mIoU"] == pytest.approx(wanted["dinov3"]["mIoU"], abs=1e-6)
    per_class = [math.nan if value is None else value for value in wanted["iou_per_class"]]
    np.testing.assert_allclose(class_iou(counted), per_class, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed {case['seed']}")
def test_golden_of_the_matching(case):
    counted = np.sum([confusion(pred, gt, case["classes"]) for gt, pred in drawn(case)], axis=0)
    assert matched_miou(counted) == pytest.approx(case["hummingbird_hungarian_absent_as_0"], abs=1e-9)
    absent_as_0 = np.nan_to_num(class_iou(areas_of(counted))).mean()
    assert absent_as_0 == pytest.approx(case["hummingbird_identity_absent_as_0"], abs=1e-9)


LABELS = arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 2, 3, 255]))
CLASSES = arrays(np.uint8, (6, 7), elements=st.integers(0, 3))


@given(LABELS, CLASSES)
def test_counts_are_scikit_learns(gt, pred):
    from sklearn.metrics import confusion_matrix, jaccard_score

    valid = gt != 255
    if not valid.any():
        assert not confusion(pred, gt, 4).any() and math.isnan(scores(areas(pred, gt, 4))["mIoU"])
        return
    np.testing.assert_array_equal(confusion(pred, gt, 4), confusion_matrix(gt[valid], pred[valid], labels=range(4)))
    found = class_iou(areas(pred, gt, 4))
    present = np.flatnonzero(np.isfinite(found))
    expected = jaccard_score(gt[valid], pred[valid], labels=present, average=None)
    np.testing.assert_allclose(found[present], expected)
    assert scores(areas(pred, gt, 4))["aAcc"] == pytest.approx((gt == pred)[valid].mean())


@given(LABELS, CLASSES, st.permutations(range(4)))
def test_names_of_classes_do_not_matter(gt, pred, order):
    renamed = np.array([*order, *[0] * 251, 255], np.uint8)
    before, after = (confusion(*pair, 4) for pair in ((pred, gt), (renamed[pred], renamed[gt])))
    for name, value in scores(areas_of(before)).items():
        assert scores(areas_of(after))[name] == pytest.approx(value, nan_ok=True)
    matched = matched_miou(before)
    assert matched_miou(confusion(renamed[pred], gt, 4)) == pytest.approx(matched)
    assert matched >= np.nan_to_num(class_iou(areas_of(before))).mean() - 1e-12


def test_matching_is_the_best_of_all_orders():
    counted = np.random.default_rng(0).integers(0, 9, (4, 4))
    best = max(
        np.nan_to_num(class_iou(areas_of(counted[:, list(order)]))).mean() for order in itertools.permutations(range(4))
    )
    assert matched_miou(counted) == pytest.approx(best)


def test_absent_classes():
    gt, pred = np.array([[0, 0, 255, 255]]), np.array([[0, 1, 2, 2]])
    counted = areas(pred, gt, 4)
    np.testing.assert_array_equal(counted, [[1, 0, 0, 0], [1, 1, 0, 0], [2, 0, 0, 0]])
    np.testing.assert_array_equal(class_iou(counted), [0.5, 0, np.nan, np.nan])
    np.testing.assert_array_equal(class_accuracy(counted), [0.5, np.nan, np.nan, np.nan])
    assert scores(counted) == {"mIoU": 0.25, "mAcc": 0.5, "aAcc": 0.5}


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        areas(np.zeros((2, 2)), np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="not all of 2"):
        areas(np.full((2, 2), 2), np.zeros((2, 2)), 2)
    with pytest.raises(ValueError, match="not all of 2"):
        areas(np.full((2, 2), -1), np.zeros((2, 2), int), 2)
    assert not areas(np.full((2, 2), 9), np.full((2, 2), 255), 2).any()  # what is ignored may be anything
