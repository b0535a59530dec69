"""Crops, resizes and blurs against PIL's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL
import pytest
import torch
from helpers.pictures import CPU, PLAIN, SIZES, VIEWS, N, difference, drawn, pictures, tensors
from PIL import ImageFilter
from torchvision import transforms as T
from torchvision.transforms import functional as F

from dinobench.pretrain import resample
from dinobench.pretrain.method import View
from dinobench.pretrain.resample import ImageBatch, blur, pack
from dinobench.pretrain.views import render

pytestmark = pytest.mark.usefixtures("one_thread")


def test_crops_are_torchvision_s():
    images = pictures(SIZES, 27)
    parameters, ours = drawn(replace(PLAIN, flip_p=0), images)
    expected = [
        np.asarray(F.resized_crop(image, *box, [48, 48], T.InterpolationMode.BICUBIC, antialias=True))
        for image, box in zip(images, parameters.boxes.tolist(), strict=True)
    ]
    off = difference(ours, np.stack(expected).transpose(0, 3, 1, 2))
    assert (off > 2).mean() < 1e-3
    if int(PIL.__version__.split(".")[0]) >= 13:  # earlier ones always resize rows first
        assert off.max() <= 2


def test_crops_gathered_from_one_buffer_are_the_same():
    """The way crops are cut on a GPU, on the CPU."""
    images, n = tensors(pictures(SIZES, 18)), np.arange(18)
    options = {"seed": 0, "passes": 0 * n, "rows": n}
    copied = render(ImageBatch(images, CPU), VIEWS, **options)
    gathered = render(ImageBatch(images, CPU, flat=pack(images)), VIEWS, **options)
    assert all(torch.equal(a, b) for a, b in zip(copied, gathered, strict=True))


def test_one_large_image_does_not_blow_up_its_batch():
    heights, widths = np.full(64, 100), np.full(64, 100)
    heights[7], widths[9] = 4000, 3000
    groups = list(resample._groups(heights, widths, 1 << 18))
    assert sorted(np.concatenate(groups)) == list(range(64))
    padded = [len(g) * int(heights[g].max()) * int(widths[g].max()) for g in groups]
    assert all(
        size <= max(1 << 18, int((heights[g] * widths[g]).max())) for size, g in zip(padded, groups, strict=True)
    )


def test_even_surfaces_stay_as_they_are():
    flat = [torch.full((3, 900, 31), value, dtype=torch.uint8) for value in (0, 1, 127, 254, 255)]
    n = np.arange(5)
    (pixels,) = render(ImageBatch(flat, CPU), [View(size=24, blur_p=1.0)], seed=0, passes=n, rows=n)
    assert all((pixels[i] == flat[i][0, 0, 0]).all() for i in range(5))


def test_blurs_are_pil_s_but_for_a_level():
    images = pictures(((64, 64),))
    radius = np.random.default_rng(0).uniform(0.1, 3, N)
    blurred = [
        np.asarray(image.filter(ImageFilter.GaussianBlur(float(r)))).transpose(2, 0, 1)
        for image, r in zip(images, radius, strict=True)
    ]
    off = difference(blur(torch.stack(tensors(images)).float(), radius), np.stack(blurred))
    assert off.max() <= 1 and (off > 0).mean() < 0.005
