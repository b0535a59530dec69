"""Probe3D's golden values; the other two programs are met in the protocol's tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.golden import golden_values

from dinobench.algorithms.keypoint_matching import match
from dinobench.data.pairs.keypoints import PointPair
from dinobench.data.pairs.square import SquareInput
from dinobench.metrics.correspondence import correct

NEXT = golden_values("correspondence")


def pair_of(source, target, side, box):
    sizes, names = ((side, side),) * 2, tuple(map(str, range(len(source))))
    return PointPair("a-b", "cat", "a", "b", *sizes, source.astype(float), target.astype(float), np.array(box), names)


@pytest.mark.parametrize("golden", NEXT["probe3d_spair"], ids=lambda g: f"seed{g['seed']}")
def test_golden_probe3d(golden):
    rng, side = np.random.default_rng(golden["seed"]), golden["image_size"]
    f = rng.standard_normal((2, 24, 10, 10)).astype(np.float32)
    f[1] = 0.7 * f[0] + 0.5 * f[1]
    points, visible = zip(*((rng.integers(0, side, (14, 2)), rng.random((14, 1)) < 0.8) for _ in range(2)), strict=True)
    second = np.clip(points[0] + rng.integers(-10, 11, (14, 2)), 0, side - 1)
    scale = 0.4 + 0.5 * rng.random()
    both = np.flatnonzero(visible[0] & visible[1])
    assert scale == pytest.approx(golden["threshold_scale"]) and both.tolist() == golden["keypoint_index"]
    pair = pair_of(points[0][both], second[both], side, [0, 0, scale * side, 1])
    found = match(pair, *torch.from_numpy(f), SquareInput(side, "corner"), 16)
    np.testing.assert_allclose(found.ratios, golden["errors_same"], atol=1e-5)
    assert 100 * correct(found.ratios, 0.1, strict=True).mean() == pytest.approx(golden["recall@0.1"])


@pytest.mark.parametrize("fit", ["squash", "centre"])
def test_a_map_matched_with_itself_finds_its_patches(fit):
    torch.manual_seed(0)
    field = torch.randn(16, 10, 10)
    centres = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 16 + 8
    pair = pair_of(centres, centres, 160, [0, 0, 160, 160])
    assert np.abs(match(pair, field, field, SquareInput(160, fit), 16).points - centres).max() <= 1


def test_corners_are_half_a_patch_off_and_their_centres_are_not():
    torch.manual_seed(0)
    field = torch.randn(16, 10, 10)
    patches = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2)
    pair = pair_of(patches * 10, patches * 9 + 4, 90, [0, 0, 90, 90])  # 0 and 90 are the outer patches' centres
    found = match(pair, field, field, SquareInput(90, "corner"), 1)
    np.testing.assert_allclose(found.points, patches * 9)
    np.testing.assert_allclose(found.ratios, 2**0.5 * 4 / 90)
    np.testing.assert_allclose(found.centred, 2**0.5 * 0.5 / 90)


def test_points_on_the_last_pixel_stay_inside():
    field = torch.randn(4, 3, 3)
    pair = pair_of(np.array([[47.9, 47.9]]), np.array([[40.0, 40.0]]), 48, [0, 0, 48, 48])
    assert match(pair, field, field, SquareInput(47, "centre"), 1).points.shape == (1, 2)
