from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score, jaccard_score

from dinobench.metrics.saliency import BETA2, saliency_scores, soft_scores, thresholds


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), shares=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)))
def test_scores_are_scikit_learns(seed, shares):
    rng = np.random.default_rng(seed)
    mask, truth = (rng.random((9, 11)) < share for share in shares)
    mask[0, 0] = truth[0, 0] = True
    found = saliency_scores(mask, truth)
    assert found.iou == pytest.approx(jaccard_score(truth.ravel(), mask.ravel()))
    assert found.max_f == pytest.approx(fbeta_score(truth.ravel(), mask.ravel(), beta=0.3**0.5))
    assert found.accuracy == pytest.approx((mask == truth).mean())


def test_empty_masks():
    nothing, something = np.zeros((2, 2), bool), np.eye(2, dtype=bool)
    assert saliency_scores(nothing, nothing) == (1, 1, 1)
    assert saliency_scores(something, nothing) == (0, 0.5, 0)
    assert saliency_scores(nothing, something) == (0, 0.5, 0)
    assert saliency_scores(~something, something) == (0, 0, 0)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]))
def test_soft_masks_are_scored_as_threshold_by_threshold(seed, share):
    rng = np.random.default_rng(seed)
    truth = rng.random((6, 7)) < share
    soft = np.round(rng.random((6, 7)) * 255) / 255 * 1.1 - 0.05  # a little beyond 0..1, and on thresholds
    iou, accuracy, f = soft_scores(soft, truth)
    assert (iou, accuracy) == saliency_scores(soft > 0.5, truth)[:2]
    wanted = [saliency_scores(soft > t, truth).max_f for t in thresholds()]
    assert f == pytest.approx(wanted) and len(f) == 255 and BETA2 == 0.3
