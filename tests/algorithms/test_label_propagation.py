"""Propagation in tiles against a dense oracle."""

from __future__ import annotations

import pytest
import torch
from helpers import dense
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dinobench.algorithms.label_propagation import propagate


def frames_of(seed, frames, height, width, dim, repeated=False):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(height, width, dim, generator=generator)
    noise = 0.0 if repeated else 0.6
    features = torch.stack([base + noise * torch.randn(height, width, dim, generator=generator) for _ in range(frames)])
    masks = F.one_hot(torch.randint(0, 3, (height, width), generator=generator), 3).permute(2, 0, 1).float()
    return features, masks


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 22),
    width=st.integers(1, 22),
    frames=st.integers(2, 7),
    context=st.integers(0, 4),
    window=st.integers(0, 14),
    circle=st.booleans(),
    top_k=st.integers(1, 7),
)
def test_tiles_equal_the_dense_matrix(seed, height, width, frames, context, window, circle, top_k):
    features, masks = frames_of(seed, frames, height, width, 16)
    options = {"context": context, "window": window, "circle": circle, "top_k": top_k}
    ours = torch.stack([masks, *propagate(features, masks, **options)])
    torch.testing.assert_close(ours, dense.propagate(features, masks, **options), atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch", [16, pytest.param(8, marks=pytest.mark.slow)])
def test_masks_at_480p_equal_the_dense_ones(patch):
    features, masks = frames_of(patch, 10 if patch == 16 else 3, 480 // patch, 832 // patch, 64)
    ours = torch.stack([masks, *propagate(features, masks)])
    oracle = dense.propagate(features, masks)
    torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=0)
    assert (ours.argmax(1) == oracle.argmax(1)).float().mean() > 0.9999


def test_ties_with_the_last_kept_are_kept():
    # three kinds of patches only, in exact arithmetic: nearly all entries tie
    kinds = torch.eye(3)[torch.arange(40 * 3) % 3].view(1, 10, 12, 3).repeat(4, 1, 1, 1)
    masks = F.one_hot(torch.randint(0, 2, (10, 12), generator=torch.Generator().manual_seed(0))).permute(2, 0, 1)
    ours = torch.stack([masks.float(), *propagate(kinds, masks.float(), window=3)])
    torch.testing.assert_close(ours, dense.propagate(kinds, masks.float(), window=3), atol=1e-5, rtol=0)


def test_a_still_video_keeps_its_mask():
    features, masks = frames_of(0, 12, 9, 13, 32, repeated=True)
    for soft in propagate(features, masks, top_k=1):
        torch.testing.assert_close(soft, masks)


def test_a_circle_of_twelve_patches_holds_441():
    """Where all cosines are equal, every patch of the window counts the same."""
    features = torch.ones(1, 1, 2).expand(31, 33, 2)
    mask = torch.zeros(1, 31, 33)
    mask[0, 15, 16] = 1
    (soft,) = propagate([features, features], mask, circle=True)
    reached = soft[0] > 0
    assert reached.sum() == 441 and reached[3, 16] and not reached[3, 17]
    assert soft[0, 15, 16] == pytest.approx(1 / 441)
