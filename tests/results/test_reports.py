"""Corruption error and mean per class as means over items: the plain functions' values, whole and with gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinobench.data.other_tests.imagenet_c import CORRUPTIONS, LEVELS, STANDARD
from dinobench.metrics.robustness import ALEXNET, ALEXNET_EXTRA, mce, mce_dinov3, mean_per_class
from dinobench.results.reports import extend
from dinobench.types import Metric, Result

DECLARED = [Metric("top1", primary=True), Metric("top5"), Metric("top1_best_epoch")]


def result(items):
    names = [m.name for m in DECLARED if m.name in items]
    return Result({n: 100 * float(items[n].mean()) for n in names}, items)


def test_the_corruptions_are_alexnet_s():
    assert (*ALEXNET, *ALEXNET_EXTRA) == CORRUPTIONS and len(ALEXNET) == STANDARD


@pytest.mark.parametrize("lost", [0, 60])
@pytest.mark.parametrize("kinds", [15, 19])
def test_corruption_error_is_that_of_the_accuracies(kinds, lost):
    r = np.random.default_rng(kinds)
    cells = [(kind, level, image) for kind in CORRUPTIONS[:kinds] for level in LEVELS for image in range(6)]
    items = pd.DataFrame({"id": [f"x/{k}/{v}/n01/{i}.JPEG" for k, v, i in cells], "top5": 1.0})
    items["top1"] = r.random(len(items)) < 0.6
    items["top1_best_epoch"] = items["top1"]
    items = items.drop(index=r.choice(len(items), lost, replace=False)).reset_index(drop=True)
    parts = items["id"].str.split("/", expand=True)
    by_cell = items["top1"].groupby([parts[1], parts[2]]).mean().unstack()
    acc = {kind: row.tolist() for kind, row in by_cell.iterrows()}
    scored = result(items)
    declared = extend("mCE", scored, DECLARED)
    assert [m.name for m in declared] == ["mCE", "mCE_dinov3", *(m.name for m in DECLARED)]
    assert [m.name for m in declared if m.primary] == ["mCE"] and not declared[0].higher_is_better
    assert scored.metrics["mCE"] == pytest.approx(100 * mce(acc))
    assert scored.metrics["mCE_dinov3"] == pytest.approx(100 * mce_dinov3(acc))
    assert list(scored.items["id"]) == list(dict.fromkeys(parts[3] + "/" + parts[4]))
    for name, value in scored.metrics.items():
        assert 100 * scored.items[name].mean() == pytest.approx(value)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_mean_per_class_is_that_of_the_predictions(pairs):
    pred, y = np.array(pairs).T
    items = pd.DataFrame({"id": [str(i) for i in range(len(y))], "label": [f"c{i}" for i in y]})
    items["top1"] = items["top5"] = items["top1_best_epoch"] = pred == y
    scored = result(items)
    declared = extend("mean_per_class", scored, DECLARED)
    assert declared[0] == Metric("mean_per_class", primary=True) and not declared[1].primary
    assert scored.metrics["mean_per_class"] == pytest.approx(100 * mean_per_class(pred, y))
    assert 100 * scored.items["mean_per_class"].mean() == pytest.approx(scored.metrics["mean_per_class"])
