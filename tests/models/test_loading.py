from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers.paths import GOLDEN
from helpers.weights import save, vit
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.errors import UnsupportedCapability, UserError
from dinobench.models.adapters import ViTBackbone
from dinobench.models.factory import describe
from dinobench.models.loading import load_backbone
from dinobench.models.pos_embed import resample_abs_pos_embed


def golden_input(n: int, height: int, width: int) -> torch.Tensor:
    rng = np.random.default_rng(height * 1000 + width)
    return torch.from_numpy(rng.standard_normal((n, 3, height, width)).astype(np.float32))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {p: load_backbone(save(vit(width=192, depth=12, patch=p, image=224), folder / f"p{p}.pth")) for p in (16, 8)}


@pytest.mark.parametrize(
    ("patch", "height", "width"),
    [(16, 224, 224), (16, 96, 96), (16, 224, 160), (16, 480, 832), (8, 224, 224), (8, 96, 144)],
)
def test_vit_meets_the_reference(tiny, patch, height, width):
    golden = np.load(GOLDEN / "vit_forward.npz")
    prefix = f"vit_tiny_p{patch}_{height}x{width}"
    want = {k.split("/")[1]: golden[k] for k in golden if k.startswith(prefix + "/")}
    x = golden_input(len(want["cls"]), height, width)
    layers, attention = tiny[patch].layers_and_attention(x, 4)
    patches = layers[-1][1]
    got = {
        "cls": tiny[patch].features(x),
        "layer_cls": torch.stack([cls for cls, _ in layers], 1),
        "avgpool_last": patches.mean(1),
        "patch_first5_last5": torch.cat([patches[:, :5], patches[:, -5:]], 1),
    }
    for key, value in got.items():
        np.testing.assert_allclose(value.numpy(), want[key], atol=1e-4, rtol=0, err_msg=key)
    shown = want["cls_attention"].shape[-1]
    np.testing.assert_allclose(attention[..., :shown].numpy(), want["cls_attention"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_meets_the_reference(tmp_path, registers):
    golden = np.load(GOLDEN / "vit_forward_dinov2.npz")
    tensors = vit(width=384, depth=12, patch=14, image=518, registers=registers, v2=True)
    backbone = load_backbone(save(tensors, tmp_path / "v2.pth"))
    ((cls, patches),) = backbone.layers(golden_input(1, 224, 224))
    prefix = f"dinov2_vit_small_p14_reg{registers}_224x224"
    np.testing.assert_allclose(cls.numpy(), golden[f"{prefix}/cls"], atol=1e-4, rtol=0)
    ends = torch.cat([patches[:, :5], patches[:, -5:]], 1)
    np.testing.assert_allclose(ends.numpy(), golden[f"{prefix}/patch_first5_last5"], atol=1e-4, rtol=0)
    assert (backbone.info.method, backbone.info.registers, backbone.info.heads) == ("dinov2", registers, 6)


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


def test_attention_is_the_blocks_own(tiny):
    """timm's unfused attention, read from its dropout's input, gives the same row of CLS."""
    x = golden_input(1, 96, 64)
    attention = tiny[16].cls_attention(x)
    block, seen = tiny[16].module.blocks[-1].attn, []
    hook = block.attn_drop.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    block.fused_attn = False
    try:
        tiny[16].features(x)
    finally:
        block.fused_attn = True
        hook.remove()
    torch.testing.assert_close(attention, seen[0][:, :, 0, 1:], atol=1e-6, rtol=1e-5)
    assert attention.shape == (1, 3, 24) and bool((attention.sum(-1) < 1).all())


def test_attention_costs_no_second_pass(tiny):
    calls = []
    hook = tiny[16].module.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    tiny[16].layers_and_attention(golden_input(1, 32, 32), 2)
    hook.remove()
    assert len(calls) == 1 and not tiny[16].module.blocks[-1].attn.qkv._forward_hooks


def test_layers_are_oldest_first_and_end_in_the_features(tiny):
    x = golden_input(2, 64, 48)
    layers = tiny[16].layers(x, 3)
    assert [p.shape for _, p in layers] == [(2, 12, 192)] * 3
    torch.testing.assert_close(layers[-1][0], tiny[16].features(x))
    torch.testing.assert_close(tiny[16].layers(x, 1)[0][1], layers[-1][1])
    with pytest.raises(UserError, match="13 last blocks asked for, the model has 12"):
        tiny[16].layers(x, 13)


@pytest.mark.parametrize(("size", "message"), [((225, 224), "height 225.*224 or 240"), ((32, 9), "width 9.*to 16")])
def test_sizes_off_the_patch_grid_name_the_nearest(tiny, size, message):
    for call in (tiny[16].features, tiny[16].layers, tiny[16].cls_attention):
        with pytest.raises(UserError, match=message):
            call(torch.zeros(1, 3, *size))
    with pytest.raises(UserError, match=r"RGB images \(B, 3, H, W\)"):
        tiny[16].features(torch.zeros(3, 32, 32))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 14), st.integers(1, 14), st.booleans())
def test_resampled_positions(side, h, w, registers):
    flat = torch.ones(1, side * side, 3)
    resampled = resample_abs_pos_embed(flat, (side, side), (h, w), registers)
    assert resampled.shape == (1, h * w, 3)
    torch.testing.assert_close(resampled, torch.ones(1, h * w, 3), atol=1e-5, rtol=0)  # bicubic weights sum to 1
    ramp = torch.arange(side * side, dtype=torch.float32).reshape(1, -1, 1).repeat(1, 1, 2)
    assert resample_abs_pos_embed(ramp, (side, side), (side, side), registers) is ramp
    turned = ramp.reshape(side, side, 2).transpose(0, 1).reshape(1, -1, 2)
    across = (
        resample_abs_pos_embed(turned, (side, side), (w, h), registers)
        .reshape(w, h, 2)
        .transpose(0, 1)
        .reshape(1, -1, 2)
    )
    torch.testing.assert_close(
        resample_abs_pos_embed(ramp, (side, side), (h, w), registers), across, atol=1e-3, rtol=1e-4
    )


def test_offset_decides_without_registers():
    rows = torch.randn(1, 49, 4, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.interpolate(rows.reshape(1, 7, 7, 4).permute(0, 3, 1, 2), size=(9, 9), mode="bicubic")
    plain = plain.permute(0, 2, 3, 1).reshape(1, 81, 4)
    assert float((resample_abs_pos_embed(rows, (7, 7), (9, 9), False) - plain).abs().max()) > 1e-3


def test_positions_follow_the_weights_and_are_kept(tiny):
    backbone = tiny[16].clone()
    x = golden_input(1, 64, 64)
    before = backbone.features(x)
    (kept,) = backbone._positions.values()
    backbone.features(x)
    assert next(iter(backbone._positions.values())) is kept
    with torch.no_grad():
        backbone.module.pos_embed.mul_(2)
    assert not torch.equal(backbone.features(x), before)
    assert torch.equal(tiny[16].features(x), before)
    with torch.inference_mode():
        fresh = tiny[16].clone().features(x)
    assert torch.equal(fresh, before)


def test_training_mode_is_differentiable_and_eval_is_not(tiny):
    backbone, x = tiny[16].clone(), golden_input(1, 64, 64)
    assert not backbone.features(x).requires_grad
    backbone.module.train()
    trained = backbone.features(x)
    trained.sum().backward()
    assert backbone.module.pos_embed.grad.abs().sum() > 0
    assert backbone.module.patch_embed.proj.weight.grad.abs().sum() > 0
    torch.testing.assert_close(trained.detach(), tiny[16].features(x), atol=1e-5, rtol=1e-5)


def test_autocast_still_gives_float32(tiny):
    with torch.autocast("cpu", torch.bfloat16):
        layers, attention = tiny[16].layers_and_attention(golden_input(1, 32, 32))
        assert tiny[16].features(golden_input(1, 32, 32)).dtype == torch.float32
    assert {layers[0][0].dtype, layers[0][1].dtype, attention.dtype} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_convnets_give_one_map_and_no_attention(name):
    backbone, x = load_backbone(f"random:{name}"), golden_input(1, 96, 64)
    ((pooled, patches),) = backbone.layers(x)
    assert backbone.capabilities == {"features", "patches"} and backbone.patch_size == 32
    assert patches.shape == (1, 6, backbone.embed_dim)
    torch.testing.assert_close(pooled, backbone.features(x))
    if name == "resnet18":
        torch.testing.assert_close(patches.mean(1), pooled, atol=1e-5, rtol=1e-4)
    for refused in (lambda: backbone.layers(x, 4), lambda: backbone.cls_attention(x)):
        with pytest.raises(UnsupportedCapability, match=name):
            refused()


def test_pixels():
    backbone = load_backbone("pixels")
    x = golden_input(2, 32, 48)
    want = x.reshape(2, 3, 16, 2, 16, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(backbone.features(x), want)
    assert (backbone.embed_dim, backbone.info.method, backbone.capabilities) == (768, "pixels", {"features"})
    assert load_backbone("pixels:8").embed_dim == 192
    with pytest.raises(UserError, match="whole number"):
        load_backbone("pixels:none")
    with pytest.raises(UnsupportedCapability):
        backbone.layers(x)


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


def test_a_model_of_one_size_refuses_others():
    with pytest.raises(UserError, match=r"swin_tiny_patch4_window7_224.* refuses \(64, 64\) images"):
        load_backbone("random:swin_tiny_patch4_window7_224").features(torch.zeros(1, 3, 64, 64))


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
