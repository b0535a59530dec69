"""Matches on surfaces: Probe3D's golden values, and points that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.golden import golden_values

from dinobench.algorithms.surface_matching import match_surfaces, partners
from dinobench.data.embedded import shape_views
from dinobench.data.pairs.views import surface
from dinobench.metrics.correspondence import relative_pose, rotation_degrees, space_errors

NEXT = golden_values("correspondence")


@pytest.mark.parametrize("golden", NEXT["navi"], ids=lambda g: f"seed{g['seed']}")
def test_golden_navi(golden):
    rng = np.random.default_rng(golden["seed"])
    first = rng.standard_normal((12, 8, 8)).astype(np.float32)
    second = (0.8 * first + 0.4 * rng.standard_normal((12, 8, 8))).astype(np.float32)
    depth = 0.4 + 0.2 * rng.random((2, 32, 32))
    depth[rng.random((2, 32, 32)) < 0.3] = 0
    ray = (np.arange(32) + 0.5 - 16) / 40
    xyz = np.stack([depth * ray, depth * ray[:, None], depth], axis=-1).astype(np.float32)
    pose = np.eye(4)
    c, s = np.cos(0.2), np.sin(0.2)
    pose[:3] = [[c, -s, 0, 0.003], [s, c, 0, -0.002], [0, 0, 1, 0.004]]
    maps, points = (torch.from_numpy(first), torch.from_numpy(second)), tuple(torch.from_numpy(xyz))
    here, there, weights = match_surfaces(maps, points, golden["points"])
    np.testing.assert_allclose(weights[:5], golden["weight_first5_sorted"], atol=1e-4)
    assert float(weights.sum()) == pytest.approx(golden["weight_sum"], abs=1e-4 * len(weights))
    for found, key in ((here, "uv0_first3"), (there, "uv1_first3")):
        uv = 40 * found[:3, :2] / found[:3, 2:] + 16
        np.testing.assert_allclose(uv, golden[key], atol=1e-4)
    metres, pixels = space_errors(here.double().numpy(), there.double().numpy(), pose, 40)
    for errors, key in ((metres, "recall_3d"), (pixels, "recall_2d")):
        for bound, recall in golden[key].items():  # to one point
            assert 100 * (errors < float(bound)).mean() == pytest.approx(recall, abs=100 / golden["points"] + 1e-4)
    assert rotation_degrees(pose) == pytest.approx(golden["rotation_degrees"], abs=1e-4)


def test_features_that_say_where_on_the_object_find_it():
    """The ball's own coordinates as features: poses, depth, crops and projections fit together or nothing is found."""
    data = shape_views.views()
    pair = data.views[0], data.views[2]
    seen = [surface(*data.load(i), data.views[i], 128) for i in (0, 2)]
    maps = [
        torch.from_numpy(np.where(one.xyz[..., 2:] > 0, (one.xyz - view.pose[:3, 3]) @ view.pose[:3, :3], 0)).float()
        for one, view in zip(seen, pair, strict=True)
    ]
    points = tuple(torch.from_numpy(one.xyz) for one in seen)
    here, there, _ = match_surfaces((maps[0].permute(2, 0, 1), maps[1].permute(2, 0, 1)), points, 200)
    metres, pixels = space_errors(
        here.double().numpy(), there.double().numpy(), relative_pose(*(view.pose for view in pair)), seen[1].focal
    )
    assert np.quantile(metres, 0.9) < 0.01 and np.quantile(pixels, 0.9) < 4


def test_no_points_no_matches():
    xyz = torch.zeros(4, 4, 3)
    here, there, weights = match_surfaces((torch.ones(2, 2, 2),) * 2, (xyz, xyz), 5)
    assert len(here) == len(there) == len(weights) == 0


def test_partners_are_others_within_the_angle():
    views = shape_views.views().views
    drawn = partners(views, 60, 8)
    assert drawn == partners(views, 60, 8) != partners(views, 60, 9)
    for view, partner in zip(views, drawn, strict=True):
        assert partner is not None and views[partner].object == view.object
        assert 0 < rotation_degrees(relative_pose(view.pose, views[partner].pose)) <= 60
    assert set(partners(views, 5, 8)) == {None}


def test_partners_are_drawn_as_torch_draws_them():
    views = shape_views.views().views[:12]
    torch.manual_seed(8)
    wanted = []
    for a in views:
        turns = [rotation_degrees(relative_pose(b.pose, a.pose)) for b in views]
        weights = torch.tensor([float(b is not a and turn <= 120) for b, turn in zip(views, turns, strict=True)])
        wanted.append(int(torch.multinomial(weights, 1)))
    assert partners(views, 120, 8) == wanted
