from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from helpers.checkpoints import X
from helpers.weights import golden_input, prefixed, save

from dinobench.errors import UserError
from dinobench.models.adapters import ViTBackbone
from dinobench.models.factory import check_arch, describe
from dinobench.models.loading import load_backbone
from dinobench.types import ModelInput


def test_arch_opens_what_cannot_be_inferred(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model("mobilenetv3_small_050", num_classes=4).eval()
    path = save({"state_dict": prefixed(model.state_dict(), "module.")}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: no known backbone among its \d+ tensors .*--arch"):
        load_backbone(path)
    backbone = load_backbone(path, arch="mobilenetv3_small_050")
    with torch.no_grad():
        want = model.forward_head(model.forward_features(X), pre_logits=True)
    torch.testing.assert_close(backbone.features(X), want)
    assert backbone.capabilities == {"features", "map"} and backbone.embed_dim == want.shape[1]


TIMM_MODELS = {
    "vit_tiny_patch16_224": (224, "vit_tiny_patch16"),
    "vit_tiny_patch16_224.augreg_in21k": (224, "vit_tiny_patch16"),
    "resnet18": (64, "resnet18"),
    "convnext_atto": (64, "convnext_atto"),
    "mobilenetv3_small_050": (64, "mobilenetv3_small_050"),
}


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_random_models_agree_with_timm(name):
    size, arch = TIMM_MODELS[name]
    backbone = load_backbone(f"random:{name}", seed=3)
    assert (backbone.info.arch, backbone.info.method) == (arch, "random")
    x = golden_input(2, size, size)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = timm.create_model(name.split(".")[0], num_classes=0).eval()
        want = model(x)
    torch.testing.assert_close(backbone.features(x), want, atol=1e-5, rtol=1e-5)
    assert backbone.features(x).shape == (2, backbone.embed_dim)


def test_dinov2_registers_agree_with_timm():
    make = {"num_classes": 0, "img_size": 56, "depth": 2, "embed_dim": 128, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_small_patch14_reg4_dinov2", **make).eval()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1)
    x = golden_input(1, 56, 56)
    with torch.no_grad():
        want = model.forward_features(x)
    architecture = describe(model, "vit_small_patch14_reg4_dinov2")
    info = replace(load_backbone("pixels").info, embed_dim=128)
    ((cls, patches),) = ViTBackbone(model, info, architecture.grid).layers(x)
    torch.testing.assert_close(cls, want[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patches, want[:, 5:], atol=1e-5, rtol=1e-5)


def test_random_starts_follow_their_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (load_backbone("random:resnet18", seed=s).info.weights_digest for s in (0, 0, 1))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_random_model_reloads_as_itself(tmp_path):
    for name in ("vit_tiny_patch16_224", "resnet18", "convnext_atto"):
        backbone = load_backbone(f"random:{name}")
        again = load_backbone(save(backbone.module.state_dict(), tmp_path / f"{name}.pth"))
        assert again.info.weights_digest == backbone.info.weights_digest
        assert again.info.arch == backbone.info.arch


def test_torchvision_only_model():
    backbone = load_backbone("random:shufflenet_v2_x0_5")
    assert backbone.features(golden_input(2, 64, 64)).shape == (2, 1024)


def test_unknown_and_unreachable_names(monkeypatch):
    with pytest.raises(UserError, match=r"random:resnet5: there is no model of that name; near it: resnet"):
        load_backbone("random:resnet5")

    def offline(*args, **kwargs):
        raise OSError("network is unreachable\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"timm:vit_small_patch16_224\.dino: .*unreachable.*path") as error:
        load_backbone("timm:vit_small_patch16_224.dino")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tag", "own"),
    [("tf_efficientnet_lite0.in1k", (0.5, 0.5, 0.5)), ("vit_tiny_patch16_224.augreg_in21k", (0.5, 0.5, 0.5)),
     ("resnet18.a1_in1k", (0.485, 0.456, 0.406)), ("vit_tiny_patch16_224", (0.5, 0.5, 0.5))],
)  # fmt: skip
def test_pretrained_models_take_the_input_of_their_weights(monkeypatch, tag, own):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, pretrained=False, **rest))
    taken = load_backbone(f"timm:{tag}").info.input
    assert (taken.mean, taken.origin) == (own, "timm's pretrained_cfg")
    assert load_backbone(f"random:{tag.partition('.')[0]}").info.input is None  # trained on nothing


def test_every_input_that_timm_states_is_one():
    for tag in timm.list_pretrained():
        stated = timm.get_pretrained_cfg(tag)
        assert ModelInput(stated.mean, stated.std).mean == stated.mean


@pytest.mark.parametrize("arch", ["vit_tiny", "deit_small", "vit_small_patch16_224.dino", "resnet18_cifar", "vit_b_16"])
def test_a_known_architecture_is_known_without_building_it(arch):
    check_arch(arch)


@pytest.mark.parametrize("arch", ["vit_tinny", "resnet81_cifar", "resnet18_cifar10000", "", "no_cifar"])
def test_an_unknown_architecture_is_told_with_what_is_near(arch):
    with pytest.raises(UserError, match=f"^--arch {arch}: there is no model of that name; near it: "):
        check_arch(arch)
