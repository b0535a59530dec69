import numpy as np
import pytest
from helpers.golden import golden_values
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.metrics.depth import CROPS, NAMES, NYU_SIZE, aligned, crop_box, depth_scores, valid_pixels

VALUES = golden_values("depth")["metrics"]
KEYS = {"a1": "delta1", "a2": "delta2", "a3": "delta3", "abs_rel": "abs_rel", "rmse": "rmse", "log_10": "log10",
    "silog": "silog"}  # fmt: skip
BY_CROP = {
    "none": "dinov3_FULL",
    "nyu": "dinov3_NYU_EIGEN",
    "garg": "toolbox_garg",
    "eigen": "toolbox_eigen_kitti",
}


def drawn(seed, size, zeros=0.1, shape=(1, 1)):
    """Depth and prediction by the rule of the golden values, float32."""
    r = np.random.default_rng(seed)
    shape = (*shape, *size)
    g = 0.5 + 11 * r.random(shape)
    p = g * np.exp(0.25 * r.standard_normal(shape)) + 0.05
    g = np.where(r.random(shape) < zeros, 0, g)
    return g.astype(np.float32), p.astype(np.float32)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("entry", VALUES, ids=lambda entry: "x".join(map(str, entry["size"])))
def test_scores_are_those_of_the_reference_programs(entry, crop):
    gt, pred = (x[0, 0] for x in drawn(entry["seed"], entry["size"]))
    expected = entry[BY_CROP[crop]]
    scores = depth_scores(gt, pred, *entry["range"], crop)
    for theirs, ours in KEYS.items():
        assert scores[ours] == pytest.approx(expected[theirs], rel=1e-5, abs=1e-5), ours
    assert valid_pixels(gt, *entry["range"], crop).sum() == expected["valid_pixels"]
    if "box_y1_y2_x1_x2" in expected:
        assert list(crop_box(*entry["size"], crop)) == expected["box_y1_y2_x1_x2"]


def test_nyu_box_is_the_toolboxs_at_nyus_size():
    assert crop_box(*NYU_SIZE, "nyu") == tuple(VALUES[0]["toolbox_nyu_45_471_41_601"]["box_y1_y2_x1_x2"])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from(CROPS), st.floats(1.01, 3))
def test_what_the_scores_do_not_depend_on(seed, crop, factor):
    gt, pred = (x[0, 0] for x in drawn(seed, (24, 32)))
    scores = depth_scores(gt, pred, 0.001, 80, crop)
    assert 0 <= scores["delta1"] <= scores["delta2"] <= scores["delta3"] <= 1
    perfect = depth_scores(gt, gt, 0.001, 80, crop)
    assert [perfect[name] for name in NAMES] == [0, 0, 1, 1, 1, 0, 0]
    spoiled = np.where(valid_pixels(gt, 0.001, 80, crop), pred, np.nan)  # what does not count may be anything
    assert depth_scores(gt, spoiled, 0.001, 80, crop) == scores
    scaled = depth_scores(gt, factor * gt, 0.001, 80, crop)  # one scale for all is no scale-invariant error
    assert scaled["silog"] == pytest.approx(0, abs=0.05)
    assert scaled["abs_rel"] == pytest.approx(factor - 1, rel=1e-4)


def test_plain_second_implementation_with_the_crop_cut_out():
    gt, pred = (x[0, 0] for x in drawn(7, (352, 1216)))
    top, bottom, left, right = crop_box(352, 1216, "garg")
    pairs = [
        (float(g), min(max(float(p), 0.5), 9.0))
        for g, p in zip(gt[top:bottom, left:right].flat, pred[top:bottom, left:right].flat, strict=True)
        if 0.5 < g < 9.0
    ]
    n = len(pairs)
    scores = depth_scores(gt, pred, 0.5, 9.0, "garg")
    assert scores["rmse"] == pytest.approx((sum((g - p) ** 2 for g, p in pairs) / n) ** 0.5)
    assert scores["abs_rel"] == pytest.approx(sum(abs(g - p) / g for g, p in pairs) / n)
    assert scores["delta2"] == sum(max(g / p, p / g) < 1.25**2 for g, p in pairs) / n


def test_no_valid_pixel_is_nan_and_bad_input_is_named():
    empty = np.zeros((4, 5))
    assert all(np.isnan(value) for value in depth_scores(empty, empty + 1, 0.001, 10).values())
    with pytest.raises(ValueError, match="of one size"):
        depth_scores(empty, np.ones((4, 4)), 0.001, 10)
    with pytest.raises(ValueError, match="not finite"):
        depth_scores(empty + 1, empty * np.nan, 0.001, 10)
    with pytest.raises(ValueError, match="none of none, nyu"):
        depth_scores(empty, empty, 0.001, 10, "center")


@pytest.mark.parametrize("crop", ["none", "nyu"])
@pytest.mark.parametrize("entry", VALUES, ids=lambda entry: "x".join(map(str, entry["size"])))
def test_scores_of_aligned_predictions_are_dinov3s(entry, crop):
    gt, pred = (x[0, 0] for x in drawn(entry["seed"], entry["size"]))
    place = *entry["range"], crop
    scores = depth_scores(gt, aligned(gt, pred, *place), *place)
    for theirs, value in entry[f"{BY_CROP[crop]}_scale_and_shift_aligned"].items():
        assert scores[KEYS[theirs]] == pytest.approx(value, rel=1e-5)


def test_probe3d_scores_are_those_without_a_clamp():
    entry = VALUES[0]
    gt, pred = (x[0, 0] for x in drawn(entry["seed"], entry["size"]))
    gt = np.where(gt > 10, 0, gt)
    place = 1e-3, 1e3, "nyu"
    for name, prediction in (("scale_aware", pred), ("scale_invariant", aligned(gt, pred, *place))):
        expected = entry[f"probe3d_{name}"]
        scores = depth_scores(gt, prediction, *place)
        ours = [scores["delta1"], scores["delta2"], scores["delta3"], scores["rmse"]]
        assert ours == pytest.approx([expected[k] for k in ("d1", "d2", "d3", "rmse")], rel=1e-5)
