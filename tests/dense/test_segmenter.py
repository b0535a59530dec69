"""How images are seen: the release's sizes, padding, scores from several views, and its label maps end to end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.golden import golden_values
from helpers.plain import arrays, head_scores, normalised, semantic_scores, slid, vit_maps
from helpers.segmentation import ColourBackbone, filled_head
from helpers.weights import quiet, save, vit
from PIL import Image
from torch import nn

from dinobench.context import LocalContext
from dinobench.dense.reading import MapReader
from dinobench.dense.segmenter import Segmenter, SlidingView
from dinobench.errors import UserError
from dinobench.metrics.semantic import areas_of, confusion, scores
from dinobench.models.loading import load_backbone
from dinobench.protocols.segmentation import zero_reduced

NEXT = golden_values("segmentation")["end_to_end_voc"]
DATA = os.environ.get("DINOBENCH_TEST_DATA")


class Images:
    """A split of given images with given labels."""

    name = "val"

    def __init__(self, pixels, labels):
        self.pixels, self.truth = pixels, labels
        self.ids = [f"i{n}" for n in range(len(pixels))]

    def __len__(self):
        return len(self.ids)

    def load(self, index):
        return Image.fromarray(self.pixels[index])

    def labels(self, index):
        return self.truth[index]


def identity_head(channels=3):
    head = nn.Conv2d(channels, channels, 1, bias=False)
    head.weight.data = torch.eye(channels)[:, :, None, None]
    return head


def golden_pictures():
    """The golden values' images and their labels."""
    voc, names = Path(DATA) / "VOCdevkit" / "VOC2012", NEXT["images"]
    pixels = [np.asarray(Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB")) for name in names]
    return Images(pixels, [np.asarray(Image.open(voc / "SegmentationClass" / f"{name}.png")) for name in names])


def plain_labels(image, size, weights, head, view, heads):
    """(H, W): what the release's steps one by one make of an image brought to (height, width) first."""
    x = normalised(image.resize(size[::-1], Image.Resampling.BILINEAR))

    def scores(window):
        return head_scores(vit_maps(weights, window, heads)[0], arrays(head.state_dict()))

    return slid(x, view.crop, view.stride, scores, (image.height, image.width))


@pytest.mark.skipif(not DATA, reason="DINOBENCH_TEST_DATA is not set")
def test_the_released_label_maps_end_to_end(tmp_path):
    path = save(vit(width=192, depth=12, image=224), tmp_path / "vit.pth")
    backbone = load_backbone(str(path), arch="vit_tiny_patch16_224")
    names, images = NEXT["images"], golden_pictures()
    view = SlidingView(NEXT["side"], 0, NEXT["crop"], NEXT["stride"])
    segmenter = Segmenter(MapReader(backbone), filled_head(192, 21), view)
    counted = np.zeros((21, 21), np.int64)
    done = segmenter.label_maps(images, range(len(names)), LocalContext(), "", [])
    for index, predicted, truth in done:
        known = NEXT["per_image"][names[index]]
        assert view.sizes(*truth.shape) == [tuple(known["input_size"])]
        found = np.bincount(predicted.ravel(), minlength=21)
        assert np.abs(found - known["predicted_pixels_per_class"]).sum() / 2 <= 0.001 * truth.size
        counted += confusion(predicted, truth, 21)
    for name, read in (
        ("mIoU_voc_21_classes (reduce_zero_label false)", counted),
        ("reduce_zero_label_true (hard-coded in the release)", zero_reduced(counted)),
    ):
        found, golden = areas_of(read), NEXT[name]
        assert scores(found)["mIoU"] == pytest.approx(golden["mIoU"], abs=1e-5)
        assert scores(found)["aAcc"] == pytest.approx(golden["aAcc"], abs=1e-5)
        assert np.abs(found[0] - golden["intersect"]).max() <= 20


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="DINOBENCH_TEST_DATA is not set")
def test_plain_steps_give_the_released_label_maps():
    weights, head = arrays(vit(width=192, depth=12, image=224)), filled_head(192, 21)
    view, images, pairs = SlidingView(NEXT["side"], 0, NEXT["crop"], NEXT["stride"]), golden_pictures(), []
    for index, known in enumerate(NEXT["per_image"].values()):
        pairs.append(
            (plain_labels(images.load(index), known["input_size"], weights, head, view, 3), images.truth[index])
        )
        found = np.bincount(pairs[-1][0].ravel(), minlength=21)
        assert np.abs(found - known["predicted_pixels_per_class"]).sum() / 2 <= 0.001 * pairs[-1][0].size
    released = [(predicted, np.where((t == 0) | (t == 255), 255, t - 1)) for predicted, t in pairs]
    for name, read in (
        ("mIoU_voc_21_classes (reduce_zero_label false)", pairs),
        ("reduce_zero_label_true (hard-coded in the release)", released),
    ):
        assert semantic_scores(read, 21) == pytest.approx({k: NEXT[name][k] for k in ("mIoU", "aAcc")}, abs=1e-5)


@pytest.mark.parametrize(("side", "crop", "stride"), [(64, 64, 40), (96, 64, 48), (48, 64, 40)])
def test_the_plain_steps_segment_alike(tmp_path, side, crop, stride):
    weights, head = quiet(vit(depth=2)), filled_head(64, 6)
    backbone = load_backbone(str(save(weights, tmp_path / "vit.pth")), heads=2)
    rng = np.random.default_rng(side)
    pixels = np.kron(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
    images, view = Images([pixels], [np.zeros((60, 84), np.uint8)]), SlidingView(side, 0, crop, stride)
    [(_, predicted, _)] = Segmenter(MapReader(backbone), head, view).label_maps(images, [0], LocalContext(), "", [])
    plain = plain_labels(images.load(0), view.sizes(60, 84)[0], arrays(weights), head, view, 2)
    assert len(np.unique(plain)) > 1 and (predicted != plain).mean() <= 0.001


def test_probabilities_of_scales_and_mirrored_views_are_averaged():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    view = SlidingView(32, 0, 32, 16, ratios=(1.0, 2.0), flip=True)
    segmenter = Segmenter(MapReader(ColourBackbone()), identity_head(), view)
    scales = [torch.from_numpy(one)[None] for one in view(Image.fromarray(pixels))]
    with torch.inference_mode():
        found = segmenter.scores(scales, (40, 56))
        own = []
        for x in scales:
            single = Segmenter(MapReader(ColourBackbone()), identity_head(), SlidingView(32, 0, 32, 16))
            own.append(single.scores([x], (40, 56)).softmax(1))
            own.append(single.scores([x.flip(-1)], (40, 56)).softmax(1).flip(-1))
    torch.testing.assert_close(found, torch.stack(own).mean(0), atol=1e-6, rtol=1e-5)


def test_mmsegs_sizes_have_no_multiple():
    assert SlidingView(ratios=(0.9,), square=False).sizes(375, 500) == [(460, 613)]
    assert SlidingView(512, 2048, ratios=(1.0, 2.0)).sizes(100, 900) == [(228, 2048), (455, 4096)]


def test_a_broken_image_is_told_and_scores_that_overflow_are_refused():
    images = Images([np.zeros((32, 32, 3), np.uint8)] * 2, [np.zeros((32, 32), np.uint8)] * 2)
    view, broken = SlidingView(32, 0, 32, 16), []
    damaged = Images(images.pixels, images.truth)
    damaged.load = lambda index: (_ for _ in ()).throw(OSError("damaged"))
    segmenter = Segmenter(MapReader(ColourBackbone()), identity_head(), view)
    assert not list(segmenter.label_maps(damaged, range(2), LocalContext(), "", broken)) and broken == [0, 1]
    head = identity_head()
    head.weight.data[:] = torch.inf
    with pytest.raises(UserError, match="not finite"):
        list(Segmenter(MapReader(ColourBackbone()), head, view).label_maps(images, range(2), LocalContext(), "", []))
