from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.fakes import FakeSplit

from dinobench.data.decoding import memory_bytes
from dinobench.data.image_split import array_split
from dinobench.errors import UserError
from dinobench.training.augment import CropAndFlip
from dinobench.training.loader import ImageLoader
from dinobench.training.sampler import Order

ORDER = Order(20, 8, seed=5)
STEPS = [ORDER(epoch, step) for epoch in range(3) for step in range(ORDER.steps_per_epoch)]


def split(n=20):
    images = np.random.default_rng(1).integers(0, 256, (n, 12, 10, 3), dtype=np.uint8)
    return array_split("noise", images, [str(i) for i in range(n)], np.zeros(n))


def views(loader, share=slice):
    """Rows and pixels of every step."""
    steps, rows, pixels = [], [], []
    for part in loader.load(STEPS, share):
        rows.append(part.rows)
        pixels.extend(part.views)
        if part.last:
            steps.append((np.concatenate(rows), torch.cat(pixels) if pixels else None))
            rows, pixels = [], []
    return steps


def test_pixels_depend_on_seed_pass_and_image_alone():
    augment = CropAndFlip(6)
    plain = views(ImageLoader(split(), augment, seed=9))
    busy = views(ImageLoader(split(), augment, seed=9, workers=7, micro_batch=3, on_cpu=False))
    assert len(plain) == len(STEPS)
    for (images, _), (rows, pixels), (other_rows, other_pixels) in zip(STEPS, plain, busy, strict=True):
        assert (rows == images).all() and (other_rows == images).all()
        assert torch.equal(pixels, other_pixels)
    halves = [views(ImageLoader(split(), augment, seed=9, processes=2), share)
              for share in (lambda n: slice(0, n // 2), lambda n: slice(n // 2, n))]  # fmt: skip
    for (_, pixels), first, second in zip(plain, *halves, strict=True):
        assert torch.equal(pixels, torch.cat([first[1], second[1]]))
    assert not torch.equal(views(ImageLoader(split(), augment, seed=10))[0][1], plain[0][1])
    assert not torch.equal(plain[0][1][:3], plain[3][1][:3])


def test_a_process_without_images_still_takes_part():
    found = views(ImageLoader(split(), CropAndFlip(6), seed=0), lambda n: slice(0, 0))
    assert [(len(rows), pixels) for rows, pixels in found] == [(0, None)] * len(STEPS)


def test_decoded_images_are_kept_within_the_budget():
    images, augment = FakeSplit(20), CropAndFlip(4)
    views(ImageLoader(images, augment, seed=0))
    assert set(images.loads.values()) == {1}
    images = FakeSplit(20)
    loader = ImageLoader(images, augment, seed=0, workers=4, ram_bytes=7 * 8 * 8 * 3)
    partly = views(loader)
    assert sorted(images.loads.values()) == [1] * 7 + [3] * 13
    images = FakeSplit(20)
    never = views(ImageLoader(images, augment, seed=0, ram_bytes=0))
    assert set(images.loads.values()) == {3}
    assert all(torch.equal(a[1], b[1]) for a, b in zip(partly, never, strict=True))


def test_broken_images_are_named_or_left_out():
    with pytest.raises(UserError, match=r"images/3\.png of test cannot be read"):
        views(ImageLoader(FakeSplit(20, broken=(3,)), CropAndFlip(4), seed=0))
    loader = ImageLoader(FakeSplit(20, broken=(3,)), CropAndFlip(4), seed=0, skip_broken=True)
    assert sum(len(rows) for rows, _ in views(loader)) == 3 * 19
    assert loader.broken == {"images/3.png"}


def test_several_views_come_apart():
    small, large = CropAndFlip(4), CropAndFlip(6)
    loader = ImageLoader(split(), lambda image, rng: (large(image, rng), small(image, rng)), seed=0)
    first = next(iter(loader.load(STEPS)))
    assert [tuple(v.shape) for v in first.views] == [(8, 3, 6, 6), (8, 3, 4, 4)]


def test_memory_is_a_machines():
    assert 1 << 27 < memory_bytes() < 1 << 46
