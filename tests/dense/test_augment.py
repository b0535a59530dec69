"""Training crops: image and labels go together, crops of one class are drawn again, the rest is filled up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinobench.dense.augment import ATTEMPTS, SegmentationCrop
from dinobench.dense.photometric import distorted
from dinobench.dense.resizing import rescaled, resize_labels, resize_pixels


def picture(height, width, seed=0):
    """RGBA whose colours tell the label of each pixel: 16 × label in red."""
    labels = np.random.default_rng(seed).integers(0, 4, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    labels = np.kron(labels, np.ones((8, 8), np.uint8))[:height, :width]
    both = np.zeros((height, width, 4), np.uint8)
    both[..., 0], both[..., 3] = 16 * labels, labels
    return Image.fromarray(both, "RGBA")


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(20, 90), width=st.integers(20, 90), library=st.sampled_from(["pil", "opencv"]),
    low=st.floats(0.5, 1), high=st.floats(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_crop_has_the_asked_size_and_fills_up_with_nothing(height, width, library, low, high, seed):
    augment = SegmentationCrop(32, 0, (low, high), 40, library=library)
    pixels, labels, extent = augment(picture(height, width), np.random.default_rng(seed))
    assert pixels.shape == (3, 40, 40) and labels.shape == (40, 40) and pixels.dtype == labels.dtype == np.uint8
    assert (labels[extent[0] :] == 255).all() and (labels[:, extent[1] :] == 255).all()
    assert (labels[: extent[0], : extent[1]] < 4).all() and extent.min() >= 16
    x = augment.normalise(torch.from_numpy(pixels)[None], torch.from_numpy(extent)[None])[0]
    assert not x[:, extent[0] :].any() and not x[:, :, extent[1] :].any()


@pytest.mark.parametrize("library", ["pil", "opencv"])
def test_labels_stay_with_their_pixels(library):
    augment = SegmentationCrop(64, 0, (1.0, 1.0), 48, distort=False, library=library)
    for seed in range(4):
        pixels, labels, _ = augment(picture(64, 80), np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels[0], 16 * labels)


def test_the_same_generator_gives_the_same_crop():
    a, b = (SegmentationCrop(48, 0, crop=32)(picture(64, 80), np.random.default_rng((1, 2, 3))) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_crops_of_nearly_one_class_are_drawn_again():
    both = np.zeros((64, 256, 4), np.uint8)
    both[:, 128:, 3] = 1  # few crops see both classes
    image = Image.fromarray(both, "RGBA")

    def shares(most):
        augment = SegmentationCrop(64, 0, (1.0, 1.0), 64, most, 0.0, distort=False)
        crops = [augment(image, np.random.default_rng(seed))[1] for seed in range(60)]
        return np.mean([np.bincount(crop.ravel()).max() / crop.size < 0.75 for crop in crops])

    chance = 1 - (1 - 33 / 193) ** (ATTEMPTS + 1)
    assert shares(1.0) < 0.4 and shares(0.75) == pytest.approx(chance, abs=0.15)


def test_the_longer_side_has_a_limit_that_is_scaled_too():
    assert rescaled(512, 8000, 512, 2048) == (131, 2048)
    assert rescaled(375, 500, 512) == (512, 683)
    augment = SegmentationCrop(512, 512, (0.5, 0.5), 300, distort=False)
    assert augment(picture(100, 400), np.random.default_rng(0))[2].tolist() == [64, 256]


def test_the_libraries_resize_as_they_are_known_to():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    smooth, sharp = (resize_pixels(pixels, (10, 15), library).astype(float).std() for library in ("pil", "opencv"))
    assert smooth < sharp  # only Pillow antialiases
    ramp = np.arange(8, dtype=np.uint8)[None].repeat(8, 0)
    assert resize_labels(ramp, (4, 4), "opencv")[0].tolist() == [0, 2, 4, 6]
    assert resize_labels(ramp, (4, 4), "pil")[0].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("library", ["pil", "opencv"])
def test_photometric_distortion_changes_most_images_and_keeps_their_form(library):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    seen = [distorted(pixels, library, np.random.default_rng(seed)) for seed in range(64)]
    assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in seen)
    unchanged = sum(np.array_equal(one, pixels) for one in seen) / len(seen)
    assert 0 < unchanged < 0.25  # a sixteenth


def test_the_hue_goes_all_the_way_round_in_dinov3s_alone():
    red = np.full((4, 4, 3), (200, 40, 40), np.uint8)

    def leading(library):
        seen = [distorted(red, library, np.random.default_rng(seed)) for seed in range(80)]
        return {int(one[0, 0].argmax()) for one in seen}

    assert leading("pil") == {0, 1, 2} and leading("opencv") == {0}
