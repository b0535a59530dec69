"""The loop of images through a backbone: what is batched with what, what of broken images, on several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.fakes import FakeBackbone, FakeSplit

from dinobench.context import LocalContext
from dinobench.errors import UserError
from dinobench.features.extraction import by_key, extract, forward_batches, unreadable


def test_groups_by_size_keep_order_and_bounds():
    sizes = np.random.default_rng(0).integers(1, 12, 200)
    items = [(i, np.zeros((3, s, s), dtype=np.uint8)) for i, s in enumerate(sizes)]
    groups = list(by_key(items, lambda pixels: pixels.shape, 4))
    assert sorted(i for g in groups for i, _ in g) == list(range(200))
    assert all(len(g) <= 4 and len({p.shape for _, p in g}) == 1 for g in groups)


def load(item: int) -> int:
    if item in (4, 7):
        raise OSError("broken")
    return 10 * item


@pytest.mark.parametrize(
    ("options", "computed"),
    [
        ({"skip_broken": True}, [0, 1, 2, 3, 5, 6, 8, 9]),
        ({}, [0, 1, 2, 3]),  # after the first broken one the rest is only looked at
    ],
)
def test_all_broken_items_are_found_whether_they_matter_or_not(options, computed):
    broken: list[int] = []
    ctx = LocalContext(batch_size=2, **options)
    batches = list(forward_batches(ctx, range(10), load, lambda loaded: [x + 1 for x in loaded], broken=broken))
    assert [item for items, _, _ in batches for item in items] == computed
    assert all(outputs == [10 * i + 1 for i in items] for items, _, outputs in batches)
    assert all(len(items) <= 2 for items, _, _ in batches) and broken == [4, 7]


def test_nothing_is_computed_where_items_are_only_looked_at():
    broken: list[int] = []
    passes = forward_batches(LocalContext(), range(10), load, lambda loaded: 1 / 0, broken=broken, looked_at_only=True)
    assert list(passes) == [] and broken == [4, 7]


def mean_colors(split, ctx):
    backbone = FakeBackbone()

    def forward(images):
        return backbone.features(torch.stack(images).float())

    return extract(backbone, split, lambda index, image: np.asarray(image).transpose(2, 0, 1), forward, ctx, "x")


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_descriptors_are_those_of_one_process(processes):
    split = FakeSplit(5, broken=())
    for rows, kept in on_processes(processes, lambda ctx: mean_colors(split, ctx)):
        np.testing.assert_allclose(rows, split.colors, atol=1e-4)
        assert kept.tolist() == list(range(5))


def test_descriptors_of_broken_images_are_refused_or_left_out():
    split = FakeSplit(6, broken=(1, 5))
    with pytest.raises(UserError, match=r"2 of 6 images of test cannot be read: images/1.png, images/5.png .*--skip"):
        mean_colors(split, LocalContext())
    ctx = LocalContext(skip_broken=True)
    rows, kept = mean_colors(split, ctx)
    assert kept.tolist() == [0, 2, 3, 4] and ctx.broken == {"test/images/1.png", "test/images/5.png"}
    np.testing.assert_allclose(rows, split.colors[kept], atol=1e-4)
    with pytest.raises(UserError, match="none of the 2 images"):
        mean_colors(FakeSplit(2, broken=(0, 1)), ctx)


def test_many_broken_images_are_counted_and_some_named():
    def load(image):
        if image in ("1.png", "2.png", "4.png"):  # the others can be read now
            raise OSError("cut\nshort" if image < "4" else "odd")

    message = unreadable("val", [f"{i}.png" for i in range(9)], 100, False, load)
    assert message and message.startswith(
        "9 of 100 images of val cannot be read: 0.png, 1.png, 2.png (cut short), 3.png, 4.png (odd) and 4 more"
    )
    assert unreadable("val", ["0.png"], 100, True, load) is None
