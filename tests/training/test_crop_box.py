from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from dinobench.training.crop_box import ATTEMPTS, crop_box, crop_boxes


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
def test_box_lies_inside_the_image(width, height, seed):
    left, top, w, h = crop_box(width, height, (0.08, 1), (3 / 4, 4 / 3), np.random.default_rng(seed))
    assert left >= 0 and top >= 0 and w >= 1 and h >= 1 and left + w <= width and top + h <= height


def test_boxes_are_distributed_as_torchvisions():
    rng, image = np.random.default_rng(0), Image.new("RGB", (200, 150))
    torch.manual_seed(0)
    ours = np.array([crop_box(200, 150, (0.08, 1), (3 / 4, 4 / 3), rng) for _ in range(4000)], float)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(4000)], float)
    theirs = theirs[:, [1, 0, 3, 2]]  # (top, left, height, width) there
    error = 4 * np.sqrt((ours.std(0) ** 2 + theirs.std(0) ** 2) / 4000)
    assert (abs(ours.mean(0) - theirs.mean(0)) < error).all()


class Drawn:
    """A generator that hands out numbers in 0..1 drawn before: those of attempts, then those of a place."""

    def __init__(self, areas, aspects, place):
        self.attempts = iter(np.stack([areas, aspects], axis=1).ravel())
        self.place = iter(place[::-1])  # left comes before top

    def uniform(self, low, high):
        return low + next(self.attempts) * (high - low)

    def integers(self, low, high):
        return low + int(next(self.place) * (high - low))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 200), st.integers(1, 200), st.sampled_from([(0.08, 1), (0.05, 0.4), (0.9, 1)]), st.integers(0, 999)
)
def test_many_images_at_once_get_the_boxes_that_each_gets_alone(width, height, scale, seed):
    rng = np.random.default_rng(seed)
    areas, aspects, places = rng.random((8, ATTEMPTS)), rng.random((8, ATTEMPTS)), rng.random((8, 2))
    ratio = (3 / 4, 4 / 3)
    many = crop_boxes(areas, aspects, places, np.full(8, height), np.full(8, width), scale, ratio)
    for row, numbers in zip(many, zip(areas, aspects, places, strict=True), strict=True):
        left, top, w, h = crop_box(width, height, scale, ratio, Drawn(*numbers))
        assert row.tolist() == [top, left, h, w]
