from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.golden import golden_values
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dinobench.metrics.correspondence import (
    binned,
    correct,
    longer_side,
    pck,
    relative_pose,
    rotation_degrees,
    space_errors,
)

NEXT = golden_values("correspondence")


@pytest.mark.parametrize("golden", NEXT["pck"], ids=lambda g: f"seed{g['seed']}")
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.15])
def test_golden_pck(golden, alpha):
    rng = np.random.default_rng(golden["seed"])
    right, pair = [], []
    for i in range(golden["pairs"]):
        m = 3 + int(rng.integers(0, 9))
        box = np.concatenate([rng.integers(0, 80, 2), rng.integers(120, 400, 2)])
        truth = rng.integers(0, 400, (m, 2))
        prediction = truth + 30 * rng.standard_normal((m, 2))
        right.append(correct(np.linalg.norm(prediction - truth, axis=1) / longer_side(box), alpha))
        pair += [i] * m
    shares = pck(np.concatenate(right), np.array(pair), np.array(pair))
    assert 100 * shares["point"] == pytest.approx(golden["per_point"][f"{alpha:g}"], abs=1e-9)
    assert 100 * shares["image"] == pytest.approx(golden["per_image"][f"{alpha:g}"], abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=60))
def test_averages_as_loops_have_them(points):
    right, pair = (np.array(one) for one in zip(*points, strict=True))
    category = pair % 2
    shares = pck(right, pair, category)
    assert shares["point"] == pytest.approx(right.mean())
    assert shares["image"] == pytest.approx(np.mean([right[pair == p].mean() for p in set(pair)]))
    classes = {c: (right[category == c].mean(), len(set(pair[category == c]))) for c in sorted(set(category))}
    assert shares["class"] == pytest.approx(np.mean([share for share, _ in classes.values()]))
    weighted = np.average([s for s, _ in classes.values()], weights=[n for _, n in classes.values()])
    assert shares["weighted"] == pytest.approx(weighted)


def test_no_points_are_no_score():
    with pytest.raises(ValueError, match="no points"):
        pck(np.zeros(0, bool), np.zeros(0), np.zeros(0))


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_rotations_are_scipys(numbers):
    poses = []
    for part in (numbers[:3], numbers[3:]):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec(part).as_matrix(), part
        poses.append(pose)
    relative = relative_pose(*poses)
    between = Rotation.from_matrix(poses[1][:3, :3]) * Rotation.from_matrix(poses[0][:3, :3]).inv()
    assert rotation_degrees(relative) == pytest.approx(math.degrees(between.magnitude()), abs=1e-4)
    point = np.array([[0.1, 0.2, 0.7]])  # of the object, seen by both
    first, second = (point @ p[:3, :3].T + p[:3, 3] for p in poses)
    metres, _ = space_errors(first, second, relative, 40)
    assert metres[0] == pytest.approx(0, abs=1e-9)


def test_errors_in_space_and_in_the_image():
    metres, pixels = space_errors(np.array([[0.0, 0, 2]]), np.array([[0.03, 0.04, 2]]), np.eye(4), 100)
    assert metres.tolist() == pytest.approx([0.05]) and pixels.tolist() == pytest.approx([2.5])
    metres, pixels = space_errors(np.zeros((0, 3)), np.zeros((0, 3)), np.eye(4), 100)
    assert len(metres) == len(pixels) == 0


def test_bins_take_their_lower_bound():
    found = binned([0.5, 1.0, 0.0, 0.25], [0, 29.9, 30, 120])
    assert found[:2] == [0.75, 0.0] and all(map(math.isnan, found[2:]))
