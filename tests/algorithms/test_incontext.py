"""Labels by example: golden values, a plain second implementation, what must always hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.golden import golden_values
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dinobench.algorithms.incontext import (
    attend,
    class_map,
    drawn_patches,
    patch_counts,
    patch_scores,
    weighted_labels,
)

VALUES = golden_values("incontext_segmentation")


@pytest.mark.parametrize("case", VALUES["function"], ids=lambda case: f"seed {case['seed']}")
def test_golden_labels(case):
    r = np.random.default_rng(case["seed"])
    memory = r.standard_normal((case["memory"], case["dim"]))
    memory /= np.linalg.norm(memory, axis=1, keepdims=True)
    labels = r.random((case["memory"], case["classes"]))
    labels /= labels.sum(axis=1, keepdims=True)
    queries = r.standard_normal((1, case["queries"], case["dim"]))[0]
    tensors = (torch.from_numpy(array.astype(np.float32)) for array in (queries, memory, labels))
    found = attend(*tensors, case["k"], case["beta"])
    np.testing.assert_allclose(found, case["label_hat"], atol=1e-5)


def test_golden_scores_of_patches():
    (case,) = VALUES["patch_scores"]
    labels = np.random.default_rng(case["seed"]).integers(0, 4, (6, 6)).repeat(4, 0).repeat(4, 1)
    labels[8:12] = 3
    labels[3, 3] = 2
    counts = patch_counts(labels, 4, 4)
    np.testing.assert_array_equal(patch_scores(counts).reshape(6, 6), case["scores"])


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_counts_are_those_of_each_patch(seed, grid, patch, classes):
    labels = np.random.default_rng(seed).integers(0, classes, (grid * patch, grid * patch)).astype(np.uint8)
    counts = patch_counts(labels, patch, classes)
    blocks = F.one_hot(torch.from_numpy(labels).long(), classes).unfold(0, patch, patch).unfold(1, patch, patch)
    np.testing.assert_array_equal(counts, blocks.sum((-1, -2)).flatten(0, 1))
    assert counts.sum() == labels.size


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_patches_are_drawn_by_score_times_chance(seed, keep):
    counts = np.random.default_rng(seed).integers(0, 3, (25, 4))
    counts[:, 0] += 1
    drawn = drawn_patches(counts, keep, np.random.default_rng(seed))
    weighted = patch_scores(counts) * np.random.default_rng(seed).random(25)
    assert drawn.tolist() == sorted(np.argsort(weighted)[:keep].tolist())


def test_rare_classes_are_kept_more_often():
    counts = np.zeros((100, 2), np.int64)
    counts[:90, 0] = counts[90:, 1] = 4
    rng = np.random.default_rng(0)
    kept = np.concatenate([drawn_patches(counts, 10, rng) for _ in range(50)])
    assert (kept >= 90).mean() > 0.4


def test_labels_gathered_in_parts_are_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    similarity, labels = torch.rand(50, 7, generator=generator), torch.randint(0, 99, (40, 3), generator=generator)
    index = torch.randint(0, 40, (50, 7), generator=generator)
    whole = weighted_labels(similarity, index, labels.to(torch.int16), 0.1)
    monkeypatch.setattr("dinobench.algorithms.incontext.GATHERED", 100)
    assert torch.equal(whole, weighted_labels(similarity, index, labels, 0.1))
    wanted = (torch.softmax(similarity / 0.1, 1)[..., None] * labels[index]).sum(1)
    torch.testing.assert_close(whole, wanted)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2))
def test_maps_are_an_argmax_of_bilinear_planes(seed, grid, classes, absent):
    soft = torch.rand(grid * grid, classes + absent, generator=torch.Generator().manual_seed(seed))
    soft[:, :absent] = 0
    size = 8 * grid
    full = F.interpolate(soft.T.reshape(1, -1, grid, grid), (size, size), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(class_map(soft, size), full[0].argmax(0))
