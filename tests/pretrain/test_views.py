"""Views against torchvision's transforms on PIL images: pixels with fixed parameters, and distributions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from helpers.pictures import CHANGES, CPU, PLAIN, SIZES, VIEWS, N, difference, drawn, pictures, tensors
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from torchvision import transforms as T
from torchvision.transforms import functional as F

from dinobench.pretrain.method import View
from dinobench.pretrain.resample import ImageBatch
from dinobench.pretrain.views import ViewParameters, draw, make, render, snapped, uniforms

pytestmark = pytest.mark.usefixtures("one_thread")


def resized(image: Image.Image, size: int) -> Image.Image:
    """Bicubic in the order of Pillow 13's passes, whichever Pillow is installed."""
    width, height = image.size
    down_first = height > size and height - size > 2 * (width - size)
    between = (width, size) if down_first else (size, height)
    return image.resize(between, Image.Resampling.BICUBIC).resize((size, size), Image.Resampling.BICUBIC)


def by_pil(image: Image.Image, parameters: ViewParameters, i: int, size: int) -> np.ndarray:
    top, left, height, width = parameters.boxes[i].tolist()
    image = resized(F.crop(image, top, left, height, width), size)
    if parameters.flip[i]:
        image = F.hflip(image)
    if parameters.jitter[i]:
        for change in parameters.order[i]:
            if change != 3 or parameters.hue[i]:
                image = CHANGES[change](image, float(parameters.factors[i, change]))
    if parameters.grayscale[i]:
        image = F.rgb_to_grayscale(image, 3)
    if parameters.blur[i]:
        image = image.filter(ImageFilter.GaussianBlur(radius=float(parameters.radius[i])))
    if parameters.solarize[i]:
        image = ImageOps.solarize(image)
    return np.asarray(image).transpose(2, 0, 1)


ONE_CHANGE = {
    "crop": {},
    "enlarged": {"size": 150},
    "grayscale": {"grayscale_p": 1.0},
    "brightness": {"jitter_p": 1.0, "jitter": (0.4, 0, 0, 0)},
    "contrast": {"jitter_p": 1.0, "jitter": (0, 0.4, 0, 0)},
    "saturation": {"jitter_p": 1.0, "jitter": (0, 0, 0.4, 0)},
    "blur": {"blur_p": 1.0},
    "wide blur": {"blur_p": 1.0, "blur_radius": (2.0, 6.0)},
    "solarize": {"solarize_p": 1.0},
}


@pytest.mark.parametrize("change", ONE_CHANGE)
def test_pixels_of_each_change_are_pil_s(change):
    view, images = replace(PLAIN, **ONE_CHANGE[change]), pictures(SIZES[:5])
    parameters, ours = drawn(view, images)
    off = np.stack([difference(ours[i], by_pil(images[i], parameters, i, view.size)) for i in range(N)])
    # A level off, rarely two, where a resize ends near a half; a factor of at most 1.4 may come on top.
    assert off.max() <= 3 and (off > 1).mean() < 1e-3 and (off > 2).mean() < 3e-5
    assert (off > 0).mean() < 0.01


def test_pixels_of_the_whole_chain_are_pil_s():
    """Pixels that a resize leaves a level off can be given another hue by the 8-bit HSV: some in a hundred thousand."""
    view = View(size=64, scale=(0.2, 1.0), jitter_p=0.8, grayscale_p=0.2, blur_p=0.5, solarize_p=0.2)
    images = pictures(SIZES[:5], 40)
    parameters, ours = drawn(view, images)
    off = np.stack([difference(ours[i], by_pil(images[i], parameters, i, 64)) for i in range(40)])
    assert (off > 2).mean() < 1e-4
    assert (off > 0).mean() < 0.01


def test_normalised_as_by_torchvision():
    images = pictures(n=3)
    n = np.arange(3)
    options = {"seed": 1, "passes": 0 * n, "rows": n}
    (ours,) = make(tensors(images), [PLAIN], device=CPU, **options)
    (pixels,) = render(ImageBatch(tensors(images), CPU), [PLAIN], **options)
    expected = F.normalize(pixels.float() / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert ours.dtype == torch.float32 and torch.allclose(ours, expected, atol=1e-6)


MANY = 4000


def boxes(n, width, height, scale):
    sides = np.full(n, height), np.full(n, width)
    return draw(View(scale=scale), 0, *sides, seed=0, passes=np.zeros(n), rows=np.arange(n)).boxes


def same_distribution(ours, expected):
    assert stats.ks_2samp(ours, expected).pvalue > 1e-4


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(112, 112, (0.05, 0.4)), (160, 90, (0.4, 1.0)), (30, 100, (0.4, 1.0))]
)
def test_crops_are_distributed_as_torchvision_s(width, height, scale):
    ours = boxes(MANY, width, height, scale).astype(float)
    image = Image.new("RGB", (width, height))
    torch.manual_seed(0)
    expected = np.array(
        [T.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(MANY)], dtype=float
    )
    (top, left, h, w), (other_top, other_left, other_h, other_w) = ours.T, expected.T
    same_distribution(h * w, other_h * other_w)
    same_distribution(h / w, other_h / other_w)
    same_distribution(top, other_top)
    same_distribution(left, other_left)
    same_distribution(top / (height - h + 1), other_top / (height - other_h + 1))
    whole = [np.mean((a == (height - b) // 2) & (c == (width - d) // 2))
             for a, b, c, d in ((top, h, left, w), (other_top, other_h, other_left, other_w))]  # fmt: skip
    assert abs(whole[0] - whole[1]) < 4 * math.sqrt(0.5 / MANY)  # centred, as the fallback is


def test_the_fallback_is_torchvision_s():
    """No aspect fits into images this narrow, or next to none."""
    for width, height in ((1, 17), (40, 1), (3, 90), (1, 1)):
        ours = boxes(9, width, height, (0.9, 1.0))
        expected = T.RandomResizedCrop.get_params(Image.new("RGB", (width, height)), [0.9, 1.0], [3 / 4, 4 / 3])
        assert (ours == expected).all()


def test_parameters_are_distributed_as_torchvision_s():
    view = View(jitter_p=0.8, grayscale_p=0.2, blur_p=0.5, solarize_p=0.1)
    side, n = np.full(MANY, 50), np.arange(MANY)
    parameters = draw(view, 1, side, side, seed=5, passes=0 * n, rows=n)
    jitter = T.ColorJitter(*view.jitter)
    torch.manual_seed(0)
    expected = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(MANY)
    ]
    for change in range(4):
        same_distribution(parameters.factors[:, change], [params[change + 1] for params in expected])
    counts = [np.sum((parameters.order == order).all(axis=1)) for order in permutations(range(4))]
    assert sum(counts) == MANY and stats.chisquare(counts).pvalue > 1e-4
    assert stats.kstest(parameters.radius, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4
    for happened, p in (
        (parameters.flip, 0.5),
        (parameters.jitter, 0.8),
        (parameters.grayscale, 0.2),
        (parameters.blur, 0.5),
        (parameters.solarize, 0.1),
    ):
        assert stats.binomtest(int(happened.sum()), MANY, p).pvalue > 1e-4
    both = np.stack(
        [parameters.flip, parameters.jitter, parameters.grayscale, parameters.blur, parameters.solarize]
    ).astype(float)
    assert np.abs(np.corrcoef(both) - np.eye(5)).max() < 4 / math.sqrt(MANY)


def test_random_numbers_are_uniform_and_independent():
    rows = np.arange(MANY)
    base = uniforms(0, 0 * rows, rows, 0)
    assert base.min() >= 0 and base.max() < 1
    assert stats.kstest(base.ravel(), "uniform").pvalue > 1e-4
    assert min(stats.kstest(draws, "uniform").pvalue for draws in base.T) > 1e-5
    others = [uniforms(1, 0 * rows, rows, 0), uniforms(0, 0 * rows + 1, rows, 0), uniforms(0, 0 * rows, rows, 1),
              uniforms(0, 0 * rows, rows + 1, 0)[:, ::-1], uniforms(-1, 0 * rows, rows, 0)]  # fmt: skip
    for other in (*others, np.roll(base, 1, axis=0), np.roll(base, 1, axis=1)):
        paired = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(paired) < 5 / math.sqrt(base.size)
    assert len(np.unique(base)) == base.size
    between = np.corrcoef(base.T) - np.eye(base.shape[1])
    assert np.abs(between).max() < 5 / math.sqrt(MANY)


def test_a_view_does_not_depend_on_its_batch():
    images = tensors(pictures(SIZES, 27))
    n, passes = np.arange(27), np.arange(27) // 9
    whole = make(images, VIEWS, seed=7, passes=passes, rows=n + 100, device=CPU)
    assert [tuple(v.shape) for v in whole] == [(27, 3, 32, 32)] * 2 + [(27, 3, 16, 16)] * 3
    assert all(v.isfinite().all() for v in whole)
    for some in (n[::-1], n[5:6], n[[3, 20, 8]]):
        part = make([images[i] for i in some], VIEWS, seed=7, passes=passes[some], rows=some + 100, device=CPU)
        assert all(torch.equal(a, b[some.copy()]) for a, b in zip(part, whole, strict=True))
    fewer = make(images, VIEWS[:1], seed=7, passes=passes, rows=n + 100, device=CPU)
    assert torch.equal(fewer[0], whole[0])
    for changed in ({"seed": 8}, {"passes": passes + 1}, {"rows": n}):
        other = make(images, VIEWS, **{"seed": 7, "passes": passes, "rows": n + 100, **changed}, device=CPU)
        assert not torch.equal(other[0][0], whole[0][0])
    assert not torch.equal(whole[2], whole[3])


def test_training_s_precision_does_not_reach_the_views():
    images, n = tensors(pictures(n=4)), np.arange(4)
    expected = make(images, VIEWS, seed=0, passes=n, rows=n, device=CPU)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = make(images, VIEWS, seed=0, passes=n, rows=n, device=CPU)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(a, b) for a, b in zip(under_autocast, expected, strict=True))


def test_views_are_brought_to_whole_patches():
    views = (View(size=224), View(size=96), View(size=3))
    assert [v.size for v in snapped(views, 16)] == [224, 96, 16]
    assert [v.size for v in snapped(views, 14)] == [224, 98, 14]
    assert snapped(views, None) == views
