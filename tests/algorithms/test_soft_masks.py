"""Label maps on the patch grid and back, against the releases' own steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from dinobench.algorithms.soft_masks import first_masks, labels_of, nearest_labels_of


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_labels_are_an_argmax_of_stretched_channels(seed, channels, with_empty):
    soft = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(seed)).softmax(0)
    if with_empty:
        soft[-1] = 0
    full = F.interpolate(soft[None], scale_factor=8, mode="bilinear", align_corners=False)[0]
    for channel in full:
        if channel.max() > 0:
            channel -= channel.min().clone()
            channel /= channel.max().clone()
    wanted = Image.fromarray(full.argmax(0).to(torch.uint8).numpy()).resize((61, 37), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(labels_of(soft, 8, (37, 61)), np.asarray(wanted))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans(), st.sampled_from([(37, 61), (5, 7), (3, 11)]))
def test_labels_of_nearest_are_the_notebooks_steps(seed, channels, with_empty, size):
    soft = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(seed)).softmax(0)
    if with_empty:
        soft[-1] = 0.25
    full = F.interpolate(soft[None], size, mode="nearest")[0]
    low, high = full.flatten(1).amin(1)[:, None, None], full.flatten(1).amax(1)[:, None, None]
    wanted = torch.nan_to_num((full - low) / (high - low), nan=0).argmax(0)
    np.testing.assert_array_equal(nearest_labels_of(soft, size), wanted.numpy())


@pytest.mark.parametrize("sampling", ["pil", "nearest-exact"])
def test_first_mask_has_a_channel_up_to_the_highest_label_on_the_grid(sampling):
    labels = np.zeros((48, 64), np.uint8)
    labels[:, 32:] = 2
    labels[0, 0] = 3  # falls between the patches
    masks = first_masks(labels, (3, 4), sampling)
    assert masks.shape == (3, 3, 4)
    assert masks.sum(0).eq(1).all() and masks[1].sum() == 0 and masks[2, :, 2:].all()


def test_a_centre_between_two_pixels_is_taken_as_torch_takes_it():
    """854 pixels on 107 patches: the middle one's centre lies on the edge between pixels 426 and 427."""
    labels = np.arange(854, dtype=np.int64)[None] % 251
    on_grid = first_masks(labels.astype(np.uint8), (1, 107), "nearest-exact").argmax(0)[0]
    wanted = F.interpolate(torch.arange(854.0)[None, None], 107, mode="nearest-exact")[0, 0].long() % 251
    assert torch.equal(on_grid, wanted)
