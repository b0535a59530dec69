"""Head and loss: the release's values, and the plain ways of computing them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.golden import golden_values
from helpers.plain import arrays, head_scores, stretched
from helpers.segmentation import filled_head
from torch.nn import functional as F

from dinobench.dense.head import SegmentationHead, backward, pixel_loss

NEXT = golden_values("segmentation")


@pytest.mark.parametrize("case", NEXT["head"], ids=["one block", "four blocks"])
def test_the_released_heads_scores(case):
    rng = np.random.default_rng(case["seed"])
    shape = 1, case["channels"], *case["grid"]
    maps = [torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for _ in range(case["layers"])]
    head = filled_head(case["layers"] * case["channels"], case["classes"])
    scores = F.interpolate(head(torch.cat(maps, 1)), size=case["out_size"], mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(scores.mean((1, 2)).detach(), case["logit_means"], atol=1e-4)
    np.testing.assert_allclose(scores[:, 0, 0].detach(), case["corner_logits"], atol=1e-4)
    middle = scores[:, case["out_size"][0] // 2].argmax(0)[::8]
    assert middle.tolist() == case["argmax_row_middle_every_8"]


@pytest.mark.parametrize("case", NEXT["head"], ids=["one block", "four blocks"])
def test_a_plain_head_has_the_released_scores(case):
    rng = np.random.default_rng(case["seed"])
    shape = 1, case["channels"], *case["grid"]
    maps = [rng.standard_normal(shape).astype(np.float32) for _ in range(case["layers"])]
    head = filled_head(case["layers"] * case["channels"], case["classes"])
    scores = stretched(head_scores(np.concatenate(maps, 1)[0], arrays(head.state_dict())), case["out_size"])
    np.testing.assert_allclose(scores.mean((1, 2)), case["logit_means"], atol=1e-4)
    np.testing.assert_allclose(scores[:, 0, 0], case["corner_logits"], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_plain_head_scores_alike(seed):
    rng = np.random.default_rng(seed)
    channels, classes, h, w, height, width = rng.integers(2, 40, 6).tolist()
    maps, head = rng.standard_normal((channels, h, w)).astype(np.float32), filled_head(channels, classes)
    with torch.no_grad():
        ours = F.interpolate(head(torch.from_numpy(maps)[None]), size=(height, width), mode="bilinear")[0]
    plain = stretched(head_scores(maps, arrays(head.state_dict())), (height, width))
    np.testing.assert_allclose(ours, plain, atol=1e-5)


def test_the_released_loss_is_averaged_over_all_pixels():
    [case] = NEXT["loss"]
    rng = np.random.default_rng(case["seed"])
    scores = torch.from_numpy(rng.standard_normal((2, 5, 8, 9)))
    ignored = rng.random((2, 8, 9)) < 0.2
    labels = torch.from_numpy(np.where(ignored, 255, rng.integers(0, 5, (2, 8, 9))).astype(np.uint8))
    assert float(pixel_loss(scores, labels)) == pytest.approx(case["mean_over_all_pixels (released)"], abs=1e-6)


def test_going_back_image_by_image_gives_the_whole_batches_gradient():
    maps = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (3, 30, 40), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    labels[labels == 3] = 255
    plain, ours = SegmentationHead(6, 3, seed=1), SegmentationHead(6, 3, seed=1)
    loss = pixel_loss(plain(maps), labels)
    loss.backward()
    torch.testing.assert_close(backward(ours(maps), labels), loss.detach())
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-7, rtol=1e-4)


def test_nothing_labelled_is_a_loss_of_zero():
    assert float(pixel_loss(torch.randn(1, 3, 2, 2), torch.full((1, 8, 8), 255, dtype=torch.uint8))) == 0


def test_a_heads_start_depends_on_its_seed_alone():
    torch.manual_seed(1)
    a = SegmentationHead(16, 5, seed=3).conv.weight
    torch.manual_seed(2)
    assert torch.equal(a, SegmentationHead(16, 5, seed=3).conv.weight)
    assert float(a.detach().std()) == pytest.approx(0.01, rel=0.3)
