from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from helpers.checkpoints import VIT, X
from helpers.weights import save

from dinobench.errors import UserError
from dinobench.models.key_mapping import weights_digest
from dinobench.models.loading import load_backbone


def original_convnext(tensors):
    """timm's names -> facebookresearch/ConvNeXt's."""
    out = {}
    for n, t in tensors.items():
        n = n.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head.")
        if ".downsample." in n:
            n = "downsample_layers." + n.split(".")[1] + "." + n.split("downsample.")[1]
        n = n.replace(".blocks", "").replace("conv_dw", "dwconv").replace("mlp.grn.weight", "grn.gamma")
        n = n.replace("mlp.grn.bias", "grn.beta").replace("mlp.fc", "pwconv")
        t = t.flatten(1) if "pwconv" in n and n.endswith("weight") else t
        out[n] = t.reshape(1, 1, 1, -1) if ".grn." in n else t
    return out


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_convnext_in_its_formats(tmp_path, name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    files = [model.state_dict(), {"model": original_convnext(model.state_dict())}]
    loaded = [load_backbone(save(c, tmp_path / f"{i}.pth")) for i, c in enumerate(files)]
    with torch.no_grad():
        want = model.forward_head(model.forward_features(X), pre_logits=True)
    for backbone in loaded:
        torch.testing.assert_close(backbone.features(X), want, rtol=1e-4, atol=1e-4)
        assert backbone.info.arch == name
    assert len({b.info.weights_digest for b in loaded}) == 1


def test_torchvision_convnext(tmp_path):
    block = torchvision.models.convnext.CNBlockConfig
    sizes = [(16, 32, 2), (32, 64, 1), (64, 96, 2), (96, None, 1)]
    model = torchvision.models.ConvNeXt([block(*s) for s in sizes], layer_scale=0.5).eval()
    backbone = load_backbone(save(model.state_dict(), tmp_path / "x.pth"))
    model.classifier[2] = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(X), model(X), rtol=1e-4, atol=1e-5)


def test_digest_sees_every_change():
    base = weights_digest(VIT)
    assert weights_digest(dict(reversed(list(VIT.items())))) == base
    assert weights_digest(VIT | {"norm.bias": VIT["norm.bias"] + 1e-3}) != base
    assert weights_digest(VIT | {"norm.bias": VIT["norm.bias"].reshape(1, -1)}) != base
    assert weights_digest({n.replace("norm.bias", "norm.shift"): t for n, t in VIT.items()}) != base
    assert weights_digest(VIT, "heads=2") != base


def test_two_names_for_one_place_are_left_over_not_overwritten(tmp_path):
    """DINOv2's chunked block names beside plain ones: which of the two would be meant?"""
    chunked = {n.replace("blocks.1.", "blocks.0.1."): t + 1 for n, t in VIT.items() if n.startswith("blocks.1.norm1")}
    path = save(VIT | chunked, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"2 left over \(blocks\.0\.1\.norm1\.weight, blocks\.0\.1\.norm1\.bias\)"):
        load_backbone(path)
