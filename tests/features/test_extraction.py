"""The loop of images through a backbone: what is batched with what, what of broken images, on several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.fakes import FakeBackbone, FakeSplit
from helpers.golden import golden_values
from helpers.requests import ALL, CLS

from dinobench import runtime
from dinobench.context import LocalContext
from dinobench.data.embedded.shape_scenes import scenes
from dinobench.errors import UserError
from dinobench.features.extraction import (
    by_key,
    centre_padded,
    extract,
    fetched,
    forward_batches,
    lost_images,
    unreadable,
)
from dinobench.features.service import FeatureService

PADDING = golden_values("depth")["center_padding"]


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


def test_a_gpu_is_handed_the_next_batch_before_the_last_is_waited_for():
    """A CPU is not: it computes nothing that a killed run would lose."""
    order = []

    def passes():
        for i in range(3):
            order.append(f"begun {i}")
            yield [i], [f"pixels {i}"], [torch.full((1, 2), float(i)), None]

    for device, expected in (
        ("cuda", ["begun 0", "begun 1", "used 0", "begun 2", "used 1", "used 2"]),
        ("cpu", ["begun 0", "used 0", "begun 1", "used 1", "begun 2", "used 2"]),
    ):
        order.clear()
        for items, loaded, (first, second) in fetched(passes(), torch.device(device)):
            order.append(f"used {items[0]}")
            assert loaded == [f"pixels {items[0]}"] and first.tolist() == [[items[0]] * 2] and second is None
        assert order == expected
    assert list(fetched([], torch.device("cuda"))) == []


@pytest.mark.parametrize("request_", [CLS, ALL], ids=["cls", "blocks and patches"])
def test_an_extraction_asks_for_no_value_while_it_computes(tmp_path, monkeypatch, request_):
    """On a GPU each of these would wait for all that it still has to do, or copy a constant to it anew."""
    service = FeatureService(runtime.start("cpu"), tmp_path, batch_size=4, workers=1)
    service.get(FakeBackbone(), FakeSplit(4, seed=1), request_)  # constants are made once
    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"Tensor.{name}"))
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, lambda *_, name=name, **__: pytest.fail(f"torch.{name}"))
    assert len(service.get(FakeBackbone(), FakeSplit(12), request_).kept) == 12


def test_lost_images_are_named():
    split = scenes().test
    ctx = LocalContext(skip_broken=True)
    assert lost_images("test", split.ids, [3, 1, 3], split.load, ctx) == [1, 3]
    assert ctx.broken == {"test/shapes/25", "test/shapes/27"}
    assert lost_images("test", split.ids, [], split.load, LocalContext()) == []
    with pytest.raises(UserError, match="2 of 12 images of test cannot be read: shapes/25, shapes/27"):
        lost_images("test", split.ids, [3, 1], split.load, LocalContext())


@pytest.mark.parametrize("name", PADDING)
def test_padding_is_the_releases(name):
    size, multiple = name.split("_to_multiple_of_")
    height, width = map(int, size.split("x"))
    left, right, top, bottom = (PADDING[name][side] for side in ("left", "right", "top", "bottom"))
    padded = centre_padded(torch.ones(height, width), int(multiple))
    assert padded.shape == (top + height + bottom, left + width + right)
    assert padded[top : top + height, left : left + width].all() and padded.sum() == height * width
