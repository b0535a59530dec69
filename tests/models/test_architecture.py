from __future__ import annotations

import pytest
import torch
import torchvision
from helpers.checkpoints import X, resnet
from helpers.weights import args, golden_input, prefixed, save, vit

from dinobench.errors import UserError
from dinobench.models.architecture import infer_resnet
from dinobench.models.loading import load_backbone


@pytest.mark.parametrize("kwargs", [{}, {"width_per_group": 128}, {"groups": 32, "width_per_group": 4}])
def test_bottleneck_widths(tmp_path, kwargs):
    model = resnet(torchvision.models.resnet.Bottleneck, num_classes=3, **kwargs)
    backbone = load_backbone(save(model.state_dict(), tmp_path / "x.pth"))
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(X), model(X))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d"])
def test_resnet_names(name):
    with torch.device("meta"):
        tensors = torchvision.models.get_model(name).state_dict()
    assert infer_resnet(tensors, "x.pth").arch == name


def test_a_file_that_says_its_arch_must_have_all_its_blocks(tmp_path):
    path = save(
        {"teacher": prefixed(vit(width=192, depth=1, image=32), "backbone."), "args": args()}, tmp_path / "x.pth"
    )
    with pytest.raises(UserError, match=r"taken for vit_tiny_patch16, but 132 backbone tensors missing \(blocks\.1\."):
        load_backbone(path)


def test_arch_must_agree(tmp_path):
    small = save(vit(width=192, depth=2, image=32), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: holds a ViT of width 192, depth 2, patch 16, not --arch vit_small"):
        load_backbone(small, arch="vit_small")
    with pytest.raises(UserError, match="not --arch vit_tiny_patch16_224"):
        load_backbone(small, arch="vit_tiny_patch16_224")
    with pytest.raises(UserError, match="not --arch resnet18"):
        load_backbone(small, arch="resnet18")
    with pytest.raises(UserError, match="no model of that name; near it: vit_"):
        load_backbone(small, arch="vit_smal_patch16_224")
    r18 = save(torchvision.models.resnet18().state_dict(), tmp_path / "r.pth")
    assert load_backbone(r18, arch="resnet18").info.arch == "resnet18"
    with pytest.raises(UserError, match="holds a resnet18, not --arch resnet34"):
        load_backbone(r18, arch="resnet34")


def test_heads(tmp_path):
    odd = vit(width=80, depth=1, image=32)
    path = save(odd, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth: how many attention heads .*--heads"):
        load_backbone(path)
    with pytest.raises(UserError, match="3 heads do not divide the width 80"):
        load_backbone(path, heads=3)
    assert load_backbone(path, heads=5).info.heads == 5
    assert load_backbone(save({"model": odd, "args": args(num_heads=4)}, tmp_path / "said.pth")).info.heads == 4
    small = vit(width=384, depth=1, image=32)
    moco = save({"state_dict": prefixed(small, "module.base_encoder.")}, tmp_path / "moco.pth")
    plain = save(small, tmp_path / "plain.pth")
    assert (load_backbone(moco).info.heads, load_backbone(plain).info.heads) == (12, 6)
    # heads change the outputs and leave no trace in the tensors: caches keyed by the digest must tell them apart
    assert load_backbone(moco).info.weights_digest != load_backbone(plain).info.weights_digest
    assert load_backbone(moco, heads=6).info.weights_digest == load_backbone(plain).info.weights_digest


def test_resnet_for_small_images(tmp_path):
    """A 3 x 3 first convolution: stride 1 and no max pooling, so the last map has a stride of 8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=2).eval()
        model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
    backbone = load_backbone(save(model.state_dict(), tmp_path / "x.pth"))
    model.fc, x = torch.nn.Identity(), golden_input(1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(x), model(x))
    assert backbone.info.arch.endswith("_cifar") and backbone.patch_size == 8
    assert backbone.layers(x)[0][1].shape == (1, 16, 512)
