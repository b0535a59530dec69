"""Colour changes against PIL's, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.pictures import CHANGES, N, difference, pictures, tensors
from torchvision.transforms import functional as F

from dinobench.pretrain.colour import jitter_, turn_hue

pytestmark = pytest.mark.usefixtures("one_thread")


def test_colour_changes_alone_are_exact():
    images = pictures(((64, 64),))
    x = torch.stack(tensors(images)).float()
    r = np.random.default_rng(0)
    turns = r.uniform(-0.5, 0.5, N)
    turned = [
        np.asarray(F.adjust_hue(image, float(t))).transpose(2, 0, 1) for image, t in zip(images, turns, strict=True)
    ]
    assert not difference(turn_hue(x, turns), np.stack(turned)).any()
    factors = np.stack([*r.uniform(0.5, 1.5, (3, N)), r.uniform(-0.1, 0.1, N)], axis=1)
    order = np.argsort(r.random((N, 4)), axis=1)
    expected = []
    for i, image in enumerate(images):
        for change in order[i]:
            image = CHANGES[change](image, float(factors[i, change]))
        expected.append(np.asarray(image).transpose(2, 0, 1))
    assert not difference(jitter_(x.clone(), order, factors), np.stack(expected)).any()
