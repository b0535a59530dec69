"""Attention masks scored through counts per patch against masks pixel by pixel; layouts, settings, pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.scores import jaccard
from helpers.voc import make_voc
from helpers.weights import save, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dinobench
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data.embedded import shapes
from dinobench.data.layouts import coco, voc
from dinobench.data.video import label_png
from dinobench.errors import UserError
from dinobench.metrics.segmentation import kept_mass_masks
from dinobench.protocols import attention
from dinobench.protocols.attention import Config, PatchCounts, jaccard_of_shares, patch_counts, run
from dinobench.runner import with_intervals

SMALL = Config(image_size=64, sweep=(0.3, 0.9))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(), tmp_path_factory.mktemp("weights") / "tiny.pth"))


def nearest(mask, size):
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)) > 0


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(5, 90),
    width=st.integers(5, 90),
    patch=st.sampled_from([4, 7, 8]),
    with_void=st.booleans(),
)
def test_counts_score_as_pixels_do(seed, height, width, patch, with_void):
    rng = np.random.default_rng(seed)
    size, grid = 48, 48 // patch
    side = grid * patch
    masks = rng.random((3, height, width)) < 0.4
    void = rng.random((height, width)) < 0.2 if with_void else None
    maps, shares = rng.random((2, grid * grid)), (0.6, 0.2, 0.95)
    inside, valid = patch_counts(masks, void, size, patch)
    ours = jaccard_of_shares(maps, PatchCounts(inside, valid, (1, 2, 3)), shares)
    small = [nearest(m, size)[:side, :side] for m in masks]
    unknown = nearest(void, size)[:side, :side] if with_void else None
    for h in range(2):
        for s, share in enumerate(shares):
            kept = kept_mass_masks(maps[h], share).reshape(grid, grid).repeat(patch, 0).repeat(patch, 1)
            wanted = [jaccard(kept, m, unknown) for m in small]
            np.testing.assert_allclose(ours[:, h, s], wanted, atol=1e-12)


class Told:
    """A backbone whose attention is given: (heads, N) for every image in turn."""

    patch_size = 16
    capabilities = frozenset({"attention"})

    def __init__(self, maps):
        self.maps = list(maps)

    def cls_attention(self, x):
        taken, self.maps = self.maps[: len(x)], self.maps[len(x) :]
        return torch.tensor(np.stack(taken))


class Pair:
    """Two images of 32 x 32: one with two masks, one with one."""

    name = "pair"

    def ids(self, kind):
        return ["a", "b"]

    def load(self, image_id):
        return Image.new("RGB", (32, 32))

    def masks(self, image_id, kind):
        left, top = np.zeros((2, 32, 32), bool)
        left[:, :16], top[:16] = True, True
        masks = np.stack([left, top]) if image_id == "a" else left[None]
        return attention_masks(masks)


def attention_masks(masks):
    from dinobench.data.masks import Masks

    return Masks(masks, tuple(range(1, len(masks) + 1)))


LEFT, TOP, LAST = [0.5, 0.0, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]
MAPS = [np.array([LEFT, LAST]), np.array([LAST, LEFT])]


def told(**changes):
    config = dataclasses.replace(Config(image_size=32, keep=0.6, sweep=()), **changes)
    return run(Told(MAPS), Pair(), config, LocalContext())


def test_best_head_per_mask_then_means_over_masks_then_images():
    result = told()
    # image a: left 1 by head 0, top 1/3 by head 0; image b: left 1 by head 1
    assert result.items["iou"].tolist() == pytest.approx([1, 1 / 3, 1])
    assert result.items["head"].tolist() == [0, 0, 1]
    assert result.items["id"].tolist() == ["a/1", "a/2", "b/1"]
    assert result.metrics["jaccard"] == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_best_single_head_over_the_set():
    result = told(heads="best_single")
    # head 0: a (1 + 1/3) / 2, b 0; head 1: a 0, b 1
    assert result.metrics["jaccard"] == pytest.approx(50)
    assert set(result.items["head"]) == {1} and "head 1" in result.notes[0]


def test_mean_of_heads_is_one_map():
    result = told(heads="mean")
    # LEFT and LAST together: 0.25, 0, 0.25, 0.5, of which the lower row holds 0.6
    assert "head" not in result.items
    assert result.metrics["jaccard"] == pytest.approx(100 * np.mean([(1 / 3 + 0) / 2, 1 / 3]))


def test_the_runner_takes_the_result_and_counts_images(tiny):
    result = run(tiny, shapes.images(), SMALL, LocalContext())
    values = with_intervals("attention", attention.metrics(SMALL), result, seed=0)
    assert list(values) == ["jaccard", "jaccard@0.3", "jaccard@0.9"]
    assert values["jaccard"].n == shapes.COUNT and len(result.items) > shapes.COUNT
    assert values["jaccard"].ci_low < values["jaccard"].value < values["jaccard"].ci_high
    means = result.items.groupby("image")["iou"].mean()
    assert values["jaccard"].value == pytest.approx(100 * means.mean())
    swept = run(tiny, shapes.images(), dataclasses.replace(SMALL, keep=0.3), LocalContext())
    assert swept.metrics["jaccard"] == pytest.approx(result.metrics["jaccard@0.3"])


def test_profiles():
    dino, naseer = attention.profiles["dino2021"], attention.profiles["naseer2021"]
    assert (dino.image_size, dino.keep, dino.masks) == (480, 0.6, "instances")
    assert (naseer.image_size, naseer.keep, naseer.masks) == (512, 0.9, "classes")
    with pytest.raises(UserError, match="masks"):
        resolve_config(attention, None, {"masks": "objects"})
    with pytest.raises(UserError, match="share of attention"):
        resolve_config(attention, None, {"keep": "60"})


def test_masks_of_another_size_than_the_image_are_named(tmp_path, tiny):
    path = make_voc(tmp_path)
    (path / "VOC2012" / "SegmentationObject" / "x.png").write_bytes(label_png(np.ones((9, 9), np.uint8)))
    with pytest.raises(UserError, match="masks of x are 9 x 9 pixels, its image 30 x 20"):
        run(tiny, voc.load(path, "VOC"), SMALL, LocalContext())


@pytest.mark.parametrize("processes", [1, 3])
def test_images_without_objects_count_for_nothing_and_are_noted(tmp_path, tiny, processes):
    path = make_voc(tmp_path) / "VOC2012"
    expected = run(tiny, voc.load(path, "VOC"), SMALL, LocalContext())
    assert not expected.notes
    for name, value in (("bare", 0), ("void", 255)):
        (path / "JPEGImages" / f"{name}.jpg").write_bytes((path / "JPEGImages" / "x.jpg").read_bytes())
        for folder in ("SegmentationObject", "SegmentationClass"):
            (path / folder / f"{name}.png").write_bytes(label_png(np.full((20, 30), value, np.uint8)))
    (path / "ImageSets" / "Segmentation" / "val.txt").write_text("bare\nx\nvoid\n")
    data = voc.load(path, "VOC")
    for heads in ("best_per_mask", "mean"):
        config = replace(SMALL, heads=heads)
        expected = run(tiny, voc.load(path, "VOC"), config, LocalContext())
        for found in on_processes(processes, lambda ctx, config=config: run(tiny, data, config, ctx)):
            assert found.metrics == expected.metrics and found.items["image"].unique().tolist() == ["x"]
            assert found.notes == [
                f"2 of 3 images have no instances at {SMALL.image_size} pixels and count for nothing, such as bare"
            ]


@pytest.mark.slow
def test_real_layouts(shared_data, tiny):
    data = voc.load(shared_data / "VOCdevkit", "VOC")
    assert (len(data.ids("classes")), len(data.ids("instances"))) == (150, 20)
    assert 0 < run(tiny, data, SMALL, LocalContext()).metrics["jaccard"] < 60
    data = coco.load(shared_data / "coco", "coco")
    assert len(data.ids("instances")) == 100
    assert 0 < run(tiny, data, SMALL, LocalContext()).metrics["jaccard"] < 60
