from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.pictures import picture
from PIL import Image
from torchvision.transforms.v2.functional import horizontal_flip, normalize, resized_crop, to_dtype, to_image

from dinobench.errors import UserError
from dinobench.training import augment
from dinobench.training.augment import CropAndFlip, TrainView, nearest, scene_view
from dinobench.training.crop_box import crop_box
from dinobench.training.randaugment import RandAugment
from dinobench.training.random_erasing import ERASING, Erasing

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_view_is_torchvisions_of_the_same_box(interpolation):
    image, augment = noise(120, 90), CropAndFlip(48, interpolation=interpolation)
    for seed in range(4):
        left, top, width, height = crop_box(120, 90, augment.scale, augment.ratio, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        view = augment(image, rng)
        assert view.shape == (3, 48, 48) and view.dtype == np.uint8
        mode = {"bilinear": 2, "bicubic": 3}[interpolation]
        theirs = to_image(resized_crop(image, top, left, height, width, [48, 48], Image.Resampling(mode)))
        ours = torch.from_numpy(view)
        assert torch.equal(ours, theirs) or torch.equal(ours, horizontal_flip(theirs))
        want = normalize(to_dtype(ours[None], torch.float32, scale=True), MEAN, STD)
        torch.testing.assert_close(augment.normalise(ours[None]), want, atol=1e-6, rtol=0)


def test_flips_as_often_as_asked():
    image = noise(8, 8)
    for p, expected in ((0.0, {False}), (1.0, {True}), (0.5, {False, True})):
        whole = CropAndFlip(8, scale=(1, 1), ratio=(1, 1), flip=p)
        views = [whole(image, np.random.default_rng(seed)) for seed in range(20)]
        plain = np.asarray(image).transpose(2, 0, 1)
        assert {bool((v == plain[:, :, ::-1]).all()) for v in views} == expected


def test_impossible_crops_are_refused():
    with pytest.raises(UserError, match="cannot be drawn"):
        CropAndFlip(scale=(0.5, 0.1))
    with pytest.raises(UserError, match="none of"):
        CropAndFlip(interpolation="cubic")


def test_views_draw_everything_from_the_generator_of_the_image():
    view = TrainView(CropAndFlip(16), RandAugment(), Erasing(1.0), uniforms=4)
    (pixels, draws), (again, same) = (view(picture(24, 24, 0), np.random.default_rng(5)) for _ in range(2))
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8 and draws.shape == (ERASING + 4,)
    assert np.array_equal(pixels, again) and np.array_equal(draws, same) and draws[2] > 0
    plain, none = TrainView(CropAndFlip(16))(picture(24, 24, 0), np.random.default_rng(5))
    assert plain.shape == (3, 16, 16) and not none.any()


def test_image_and_labels_are_cut_alike(monkeypatch):
    """An image whose colour is its label keeps its labels, except along their borders."""
    monkeypatch.setattr(augment, "CHANCE", 0.0)
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (5, 6)), np.ones((20, 20))).astype(np.uint8)
    image = Image.fromarray((100 * labels)[..., None].repeat(3, -1))
    for seed in range(20):
        pixels, cut = scene_view(image, labels, 64, np.random.default_rng(seed))
        assert pixels.shape == (3, 64, 64) and pixels.dtype == np.float32 and cut.dtype == np.uint8
        assert (np.abs(pixels[0] - 100.0 * cut) < 50).mean() > 0.9


def test_colours_change_by_a_tenth_on_half_of_the_images():
    grey = Image.new("RGB", (32, 32), (120, 100, 80))
    plain = 0
    for seed in range(200):
        pixels, _ = scene_view(grey, np.zeros((32, 32), np.uint8), 16, np.random.default_rng(seed))
        assert np.ptp(pixels, axis=(1, 2)).max() < 1e-3 and abs(pixels.mean() - 100) < 16
        plain += bool((pixels[:, 0, 0] == [120, 100, 80]).all())
    assert 2 <= plain <= 40  # one in sixteen, and those that round back


def test_views_differ_by_seed_alone():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    labels = rng.integers(0, 5, (40, 50), dtype=np.uint8)
    a, b, c = (scene_view(image, labels, 32, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) and not np.array_equal(a[0], c[0])


def test_nearest_is_torchs():
    labels = np.random.default_rng(0).integers(0, 256, (37, 51), dtype=np.uint8)
    floats = torch.from_numpy(labels.astype(np.float32))[None, None]
    for size in (16, 40, 64):
        wanted = torch.nn.functional.interpolate(floats, (size, size), mode="nearest")[0, 0]
        np.testing.assert_array_equal(nearest(labels, size), wanted)
