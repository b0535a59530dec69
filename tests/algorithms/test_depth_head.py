import numpy as np
import pytest
import torch
from helpers.golden import golden_values
from torch.nn import functional as F

from dinobench.algorithms import depth_head
from dinobench.algorithms.depth_head import DepthBins, DepthHead, four_blocks, to_labels

VALUES = golden_values("depth")
HEAD = VALUES["head"][0]
LOGITS = torch.from_numpy(2 * np.random.default_rng(HEAD["seed"]).standard_normal((1, 256, 4, 5))).float()


@pytest.mark.parametrize("name", [name for name in HEAD if name.startswith("bins_")])
def test_depth_of_logits_is_dinov3s(name):
    _, spacing, _, norm, high = name.split("_")
    bins = DepthBins(0.001, float(high.removeprefix("max")), 256, spacing, norm)
    assert bins.depth(LOGITS).flatten()[:6].tolist() == pytest.approx(HEAD[name], rel=1e-5, abs=1e-5)


def test_one_channel_is_a_regression():
    depth = DepthBins(0.001, 10, 1).depth(LOGITS[:, :1])
    assert depth.flatten()[:6].tolist() == pytest.approx(HEAD["regression_one_channel"], rel=1e-5)


def test_weights_are_a_mean_of_the_bins():
    bins = DepthBins(0.001, 10)
    weights = LOGITS.double().relu() + 0.1
    expected = (weights * torch.linspace(0.001, 10, 256).double()[:, None, None]).sum(1) / weights.sum(1)
    assert torch.allclose(bins.depth(LOGITS)[:, 0].double(), expected, atol=1e-5)


def test_convolution_first_is_the_release_s_upsampling_first():
    head = DepthHead(12, DepthBins(0.001, 10, 32), upsample=4, seed=3)
    features = torch.randn(2, 12, 5, 7, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)
    expected = head.bins.depth(head.conv_depth(large))
    assert head(features).shape == (2, 1, 20, 28)
    assert torch.allclose(head(features), expected, atol=1e-5)


@pytest.mark.parametrize(("images", "channels", "upsample"), [(1, 2, 2), (3, 70, 4)])
def test_the_gradient_of_upsampled_logits_is_autograds(images, channels, upsample, monkeypatch):
    monkeypatch.setattr(depth_head, "AT_ONCE", 2000)  # several parts, the last one smaller
    logits = torch.randn(images, channels, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(images, 1, 5 * upsample, 3 * upsample, generator=torch.Generator().manual_seed(1))
    bins, found = DepthBins(0.5, 10, channels), []
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    large = F.interpolate(plain, scale_factor=upsample, mode="bilinear", align_corners=False).relu() + 0.1
    centers = bins.centers().double()[:, None, None]
    for depth, start in ((bins.depth(ours, upsample), ours), ((large * centers).sum(1) / large.sum(1), plain)):
        (depth.reshape(weights.shape) * weights).sum().backward()
        found.append((depth.detach().reshape(weights.shape), start.grad))
    torch.testing.assert_close(found[0], found[1])


def test_start_of_a_head_is_its_seed_s_alone():
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    a = DepthHead(8, DepthBins(0.001, 10, 16), batchnorm=True, init_std=0.01, seed=1)
    assert torch.rand(1) == before
    b = DepthHead(8, DepthBins(0.001, 10, 16), init_std=0.01, seed=1)
    assert torch.equal(a.conv_depth.weight, b.conv_depth.weight) and not a.conv_depth.bias.any()
    assert 0.005 < a.conv_depth.weight.std() < 0.02


def test_blocks_of_other_depths():
    assert four_blocks(4) == (0, 1, 2, 3) and four_blocks(32) == (7, 15, 23, 31)
    with pytest.raises(ValueError, match="3 blocks"):
        four_blocks(3)


def test_clamp_comes_before_the_average_in_dinov2_and_after_it_in_dinov3():
    depth = torch.tensor([[[[2.0, 12.0], [4.0, 14.0]]]])
    mirrored = torch.tensor([[[[10.0, 2.0], [6.0, 4.0]]]])
    early = to_labels(depth, mirrored, (2, 2), 0.001, 10.0, "head")
    late = to_labels(depth, mirrored, (2, 2), 0.001, 10.0, "labels")
    assert early.tolist() == [[[2.0, 10.0], [4.0, 8.0]]] and late.tolist() == [[[2.0, 10.0], [4.0, 10.0]]]
    alone = to_labels(depth, None, (2, 2), 0.001, 10.0, "head")
    assert torch.equal(alone, to_labels(depth, None, (2, 2), 0.001, 10.0, "labels"))
