"""J and F against the official scorer's values, attention masks against the reference's, and what must hold of both."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from helpers.golden import NUMBERS
from helpers.paths import GOLDEN
from helpers.scores import boundary_f, jaccard
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import jaccard_score

from dinobench.metrics.segmentation import (
    boundary,
    boundary_radius,
    frame_scores,
    kept_mass_masks,
    statistics,
)

JF = [entry for entry in NUMBERS["davis_jf"] if "shape" in entry]


def golden_masks(entry):
    packed = np.load(GOLDEN / "masks.npz")
    count = int(np.prod(entry["shape"]))
    return (
        np.unpackbits(packed[f"jf{entry['index']}_{which}"])[:count].reshape(entry["shape"]) for which in ("pred", "gt")
    )


@pytest.mark.parametrize("entry", JF, ids=lambda e: "x".join(map(str, e["shape"])))
def test_j_and_f_meet_the_golden_values(entry):
    prediction, truth = golden_masks(entry)
    j, f = jaccard(prediction, truth), boundary_f(prediction, truth)
    np.testing.assert_allclose(j, entry["J"], atol=1e-9)
    np.testing.assert_allclose(f, entry["F"], atol=1e-9)
    np.testing.assert_allclose(statistics(j), entry["J_stats"], atol=1e-9)
    np.testing.assert_allclose(statistics(f), entry["F_stats"], atol=1e-9)
    fast = [frame_scores(p, t, 1) for p, t in zip(prediction, truth, strict=True)]
    assert [a[0] for a, _ in fast] == j.tolist()
    assert [b[0] for _, b in fast] == f.tolist()


@pytest.mark.parametrize("keep", ["0.6", "0.9"])
def test_attention_masks_meet_the_golden_values(keep):
    golden = NUMBERS["attention_mask"]
    kept = kept_mass_masks(np.array(golden["attention"]), float(keep))
    np.testing.assert_array_equal(kept, np.array(golden["keep"][keep], bool))


def blobs(seed, shape, count=3):
    """Random ellipses, cut by the image's edges at times, none at times."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(0, count + 1))):
        centre = tuple(int(v) for v in rng.integers(-5, 5 + np.array(shape[::-1])))
        axes = tuple(int(v) for v in rng.integers(1, max(shape) // 2 + 1, 2))
        cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
    return mask


def slow_f(a, b, radius):
    """F written out from the definition: boundaries pixel by pixel, distances by scipy's transform."""

    def edges(mask):
        h, w = mask.shape
        out = np.zeros((h, w), bool)
        for y in range(h):
            for x in range(w):
                near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                out[y, x] = any(p < h and q < w and mask[p, q] != mask[y, x] for p, q in near)
        return out

    e, g = edges(a), edges(b)
    if not e.any() or not g.any():
        return float(not e.any() and not g.any())
    precision = (ndimage.distance_transform_edt(~g)[e] <= radius).mean()
    recall = (ndimage.distance_transform_edt(~e)[g] <= radius).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 50), st.integers(0, 9))
def test_f_is_its_definition(seed, height, width, radius):
    a, b = blobs(seed, (height, width)), blobs(seed + 1, (height, width))
    assert boundary_f(a, b, radius) == pytest.approx(slow_f(a, b, radius), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 60))
def test_j_and_f_are_shares_and_know_equals(seed, height, width):
    a, b = blobs(seed, (height, width)), blobs(seed + 1, (height, width))
    for score in (jaccard, boundary_f):
        assert 0 <= score(a, b) <= 1
        assert score(a, a) == 1
    assert jaccard(a, b) == jaccard(b, a)
    if (a | b).any():
        assert jaccard(a, b) == pytest.approx(jaccard_score(b.ravel(), a.ravel()), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_a_label_map_scores_as_its_masks_do(seed, objects):
    rng = np.random.default_rng(seed)
    maps = [sum(blobs(seed + 10 * k + i, (60, 80), 1) * (k + 1) for k in range(objects)) for i in range(2)]
    prediction, truth = (np.where(m > objects, rng.integers(0, objects + 1), m).astype(np.uint8) for m in maps)
    j, f = frame_scores(prediction, truth, objects)
    masks = [np.stack([m == k + 1 for k in range(objects)]) for m in (prediction, truth)]
    np.testing.assert_array_equal(j, jaccard(*masks))
    np.testing.assert_array_equal(f, boundary_f(*masks))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_mean_and_recall_do_not_depend_on_the_order_of_frames(values, random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    a, b = statistics(np.array(values)), statistics(np.array(shuffled))
    assert a.mean == pytest.approx(b.mean) and a.recall == b.recall


def test_empty_masks():
    empty, full = np.zeros((2, 10, 12), bool), np.ones((2, 10, 12), bool)
    assert jaccard(empty, empty).tolist() == boundary_f(empty, empty).tolist() == [1, 1]
    assert jaccard(empty, full).tolist() == [0, 0]
    corner = np.zeros((10, 12), bool)
    corner[3, 4] = True
    assert boundary_f(corner, empty[0]) == boundary_f(empty[0], corner) == 0


def test_void_pixels_count_for_neither():
    prediction, truth = np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]])
    assert jaccard(prediction, truth) == 0.5
    assert jaccard(prediction, truth, np.array([[0, 0, 0, 1]])) == pytest.approx(2 / 3)
    assert jaccard(prediction, truth, np.ones((1, 4))) == 1


def test_boundary_looks_right_and_down_only():
    mask = np.zeros((4, 5), bool)
    mask[2:, 3:] = True
    assert np.argwhere(boundary(mask)).tolist() == [[1, 2], [1, 3], [1, 4], [2, 2], [3, 2]]
    mask[:] = True
    mask[3, 4] = False  # the corner is never boundary itself
    assert np.argwhere(boundary(mask)).tolist() == [[2, 3], [2, 4], [3, 3]]


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        boundary_f(np.zeros((4, 5)), np.zeros((5, 4)))


def test_radius_follows_the_diagonal():
    assert [boundary_radius(*size) for size in ((480, 854), (1080, 1920), (30, 40))] == [8, 18, 1]


def test_decay_compares_the_first_quarter_with_the_last():
    # cuts at 0, 2, 4, 5, 7 for eight frames: both ends included
    values = np.arange(8) / 10
    assert statistics(values).decay == pytest.approx(values[0:3].mean() - values[5:8].mean())
    assert statistics(np.array([0.7])) == (0.7, 1.0, 0.0)


def test_decay_keeps_its_cuts_in_eight_bits():
    values = np.linspace(1, 0, 300)
    # round(linspace(1, 300, 5) + 1e-10) - 1 = 0, 75, 150, 224, 299, and 299 in eight bits is 43
    assert math.isnan(statistics(values).decay)
    assert statistics(values).mean == pytest.approx(0.5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 80), st.floats(0.05, 1))
def test_kept_patches_hold_the_mass_and_none_is_needless(seed, patches, keep):
    attention = np.random.default_rng(seed).exponential(size=(2, patches)) ** 3
    for values, kept in zip(attention, kept_mass_masks(attention, keep), strict=True):
        share = values[kept].sum() / values.sum()
        assert share >= keep - 1e-9
        assert share - values[kept].min() / values.sum() < keep + 1e-9
        assert not (~kept).any() or values[~kept].max() <= values[kept].min()
