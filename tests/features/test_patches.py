"""Patches at unit length, in order, without what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.fakes import FakeBackbone

from dinobench.context import LocalContext
from dinobench.data.transforms import ImageTransform
from dinobench.errors import UserError
from dinobench.features.patches import unit_patches

PLAIN = ImageTransform(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def passes(backbone, count=7, broken=None, bad=()):
    def load(item):
        if item in bad:
            raise OSError("broken")
        return np.full((3, 8, 8), 10 + item, np.uint8) * np.array([1, 2, 3], np.uint8)[:, None, None], str(item)

    broken = [] if broken is None else broken
    ctx = LocalContext(skip_broken=True)
    return list(unit_patches(backbone, range(count), load, PLAIN, ctx, "Testing", str, broken))


def test_patches_have_unit_length_and_the_items_order():
    found = passes(FakeBackbone())
    assert [item for items, _, _ in found for item in items] == list(range(7))
    assert [beside for _, others, _ in found for beside in others] == [str(i) for i in range(7)]
    patches = torch.cat([patches for *_, patches in found])
    assert patches.shape == (7, 2, 3)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(7, 2))
    torch.testing.assert_close(patches[3, 0], torch.tensor([1.0, 2.0, 3.0]) / 14**0.5)


def test_what_cannot_be_read_is_kept_apart():
    broken = []
    found = passes(FakeBackbone(), broken=broken, bad=(2, 5))
    assert broken == [2, 5] and [item for items, _, _ in found for item in items] == [0, 1, 3, 4, 6]


def test_features_that_are_not_finite_are_refused():
    backbone = FakeBackbone(lambda x: x.fill_(torch.nan))
    with pytest.raises(UserError, match=r"features of 4 images are not finite.*: 0, 1, 2, 3"):
        passes(backbone)
