"""The search without an upsampled map against the dense one; matches by ratio against the golden values' program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.correspondence import dense_points
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dinobench.algorithms import correspondence
from dinobench.algorithms.correspondence import (
    aligned_vectors,
    axis,
    best_patches,
    best_pixels,
    pixel_vectors,
    unique_matches,
)


def random_map(rng, dim, height, width, smooth=0):
    values = torch.from_numpy(rng.standard_normal((1, dim, height, width))).float()
    for _ in range(smooth):
        values = F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return values[0]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    smooth=st.integers(0, 3),
    shift=st.sampled_from([0.0, 1.0, -2.0]),
)
def test_best_pixels_are_those_of_the_upsampled_map(seed, grid, size, smooth, shift):
    rng = np.random.default_rng(seed)
    source, target = (random_map(rng, 6, *grid, smooth) + shift for _ in range(2))
    points = np.stack([rng.integers(0, size[1], 5), rng.integers(0, size[0], 5)], axis=1)
    wanted, cosines = dense_points(source, target, points, size, size)
    queries = pixel_vectors(source, torch.from_numpy(points), size)
    found = best_pixels(queries, target, size).numpy()
    for (x, y), (column, row), one in zip(found, wanted, cosines, strict=True):
        # the dense one rounds: half a patch along the borders is equal, and it may take any pixel of it
        assert one[y, x] >= one[row, column] - 1e-6


def test_the_first_of_equal_pixels_wins():
    target = torch.zeros(2, 2, 2)
    target[0] = 1.0
    assert best_pixels(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), target, (9, 9)).tolist() == [[0, 0], [0, 0]]
    target[:, 1, 1] = torch.tensor([1.0, 1.0])  # beyond the last patch's centre all pixels have its vector
    assert best_pixels(torch.tensor([[0.0, 1.0]]), target, (8, 8)).tolist() == [[6, 6]]
    assert best_pixels(torch.zeros(1, 2), target, (4, 4)).tolist() == [[0, 0]]  # no direction, all alike


def test_few_cells_are_looked_into_where_maps_are_smooth(monkeypatch):
    looked_into = []
    inner = correspondence._Field._cosines
    monkeypatch.setattr(
        correspondence._Field, "_cosines", lambda *args: looked_into.append(len(args[1])) or inner(*args)
    )
    target = random_map(np.random.default_rng(0), 64, 24, 24, 2)
    points = torch.tensor([[100, 100], [30, 200], [250, 50]])
    found = best_pixels(pixel_vectors(target, points, (300, 400)), target, (300, 400))
    assert torch.equal(found, points)
    assert sum(looked_into) < 0.1 * 3 * 24 * 24


def test_work_in_parts_is_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    source, target = random_map(rng, 4, 5, 7), random_map(rng, 4, 5, 7)
    queries = pixel_vectors(source, torch.tensor([[3, 4], [50, 30], [9, 9]]), (40, 60))
    whole = best_pixels(queries, target, (40, 60))
    monkeypatch.setattr(correspondence, "PIXELS", 200)
    assert torch.equal(best_pixels(queries, target, (40, 60)), whole)
    matches = unique_matches(source.flatten(1).T, target.flatten(1).T, 9)
    monkeypatch.setattr(correspondence, "COSINES", 70)
    for a, b in zip(unique_matches(source.flatten(1).T, target.flatten(1).T, 9), matches, strict=True):
        torch.testing.assert_close(a, b)


@given(inputs=st.integers(1, 60), outputs=st.integers(1, 300))
def test_an_axis_is_torchs(inputs, outputs):
    ramp = torch.arange(inputs, dtype=torch.float32)
    wanted = F.interpolate(ramp.view(1, 1, 1, -1), size=(1, outputs), mode="bilinear").flatten()
    along = axis(inputs, outputs)
    torch.testing.assert_close(along.low + along.weight, wanted, atol=1e-4, rtol=0)
    assert along.start[0] == 0 and along.start[-1] == outputs


def test_pixel_vectors_are_those_of_the_upsampled_map():
    source = random_map(np.random.default_rng(2), 5, 6, 4)
    points = torch.stack(torch.meshgrid(torch.arange(31), torch.arange(43), indexing="xy"), -1).view(-1, 2)
    wanted = F.interpolate(source[None], size=(43, 31), mode="bilinear")[0].flatten(1).T
    torch.testing.assert_close(pixel_vectors(source, points, (43, 31)), wanted, atol=1e-5, rtol=1e-5)


def test_aligned_vectors_lie_between_the_corners_centres():
    source = random_map(np.random.default_rng(3), 3, 4, 5)
    unit = F.normalize(source, dim=0)
    found = aligned_vectors(source, torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.25, 1 / 3], [0.125, 0.0]]))
    wanted = [unit[:, 0, 0], unit[:, 3, 4], unit[:, 1, 1], (unit[:, 0, 0] + unit[:, 0, 1]) / 2]
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=0)
    assert best_patches(unit[:, [2, 0], [4, 3]].T, 3 * source).tolist() == [[4, 2], [3, 0]]


@pytest.mark.parametrize("count", [5, 500])
def test_unique_matches_are_lowes(count):
    rng = np.random.default_rng(4)
    first, second = rng.standard_normal((40, 8)), rng.standard_normal((30, 8))
    index, nearest, weights = unique_matches(torch.from_numpy(first), torch.from_numpy(second), count)
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (first, second)]
    distances = 1 - unit[0] @ unit[1].T
    ordered = np.sort(distances, axis=1)
    wanted = 1 - ordered[:, 0] / ordered[:, 1]
    assert len(index) == min(count, 40) and index.tolist() == np.argsort(-wanted)[:count].tolist()
    assert nearest.tolist() == distances.argmin(axis=1)[index].tolist()
    np.testing.assert_allclose(weights, wanted[index], atol=1e-9)
