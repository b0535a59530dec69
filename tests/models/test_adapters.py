from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN
from helpers.weights import golden_input, save, vit

from dinobench.errors import UnsupportedCapability, UserError
from dinobench.models.loading import load_backbone
from dinobench.runtime import autocast


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
    assert backbone.capabilities == {"features", "patches", "map"} and backbone.patch_size == 32
    assert patches.shape == (1, 6, backbone.embed_dim)
    torch.testing.assert_close(pooled, backbone.features(x))
    if name == "resnet18":
        torch.testing.assert_close(patches.mean(1), pooled, atol=1e-5, rtol=1e-4)
    assert torch.equal(backbone.feature_map(x), patches.transpose(1, 2).unflatten(2, (3, 2)))
    refusals = (
        lambda: backbone.layers(x, 4),
        lambda: backbone.cls_attention(x),
        lambda: backbone.blocks(x, [0]),
        lambda: backbone.keys(x),
    )
    for refused in refusals:
        with pytest.raises(UnsupportedCapability, match=name):
            refused()


def test_blocks_are_what_the_modules_put_out(tiny):
    backbone, x, seen = tiny[16], golden_input(2, 64, 48), []
    hooks = [
        block.register_forward_hook(lambda m, args, output: seen.append(output)) for block in backbone.module.blocks
    ]
    backbone.layers(x, 1)
    for hook in hooks:
        hook.remove()
    blocks = backbone.blocks(x, (-1, 0, 5, 0))
    assert len(blocks) == 4
    for (cls, patches), number in zip(blocks, (11, 0, 5, 0), strict=True):
        assert torch.equal(torch.cat([cls[:, None], patches], 1), seen[number])
    for (cls, patches), (want_cls, want) in zip(
        backbone.blocks(x, [9, 10, 11], norm=True), backbone.layers(x, 3), strict=True
    ):
        assert torch.equal(cls, want_cls) and torch.equal(patches, want)
    assert torch.equal(backbone.feature_map(x), backbone.layers(x)[0][1].transpose(1, 2).reshape(2, 192, 4, 3))
    for wrong in ([12], [0, -13], []):
        with pytest.raises(UserError, match="asked for, the model has those from 0 to 11"):
            backbone.blocks(x, wrong)


def test_no_block_is_run_that_is_not_asked_for(tiny):
    ran = []
    hook = tiny[16].module.blocks[3].register_forward_hook(lambda *_: ran.append(3))
    tiny[16].blocks(golden_input(1, 32, 32), [2])
    hook.remove()
    assert not ran


def test_keys_are_the_middle_third_of_qkv(tiny):
    backbone, x, seen = tiny[16], golden_input(2, 64, 48), []
    attention = backbone.module.blocks[-1].attn
    hook = attention.qkv.register_forward_hook(lambda m, args, output: seen.append(output))
    backbone.layers(x)
    hook.remove()
    want = seen[0].reshape(2, 13, 3, 3, 64)[:, 1:, 1].transpose(1, 2)  # (B, heads, N, D / heads)
    torch.testing.assert_close(backbone.keys(x), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone.keys(x).dtype == torch.float32
    with pytest.raises(UserError, match="is not a multiple of the patch size"):
        backbone.keys(x[..., :40])


def test_dinov2_blocks_keep_the_registers_apart(tmp_path):
    tensors = vit(width=64, depth=2, patch=14, image=56, registers=4, v2=True)
    backbone = load_backbone(save(tensors, tmp_path / "v2.pth"), heads=2)
    x = golden_input(1, 56, 42)
    ((cls, patches),) = backbone.blocks(x, [1], norm=True)
    assert (cls.shape, patches.shape, backbone.keys(x).shape) == ((1, 64), (1, 12, 64), (1, 2, 12, 32))
    torch.testing.assert_close(cls, backbone.features(x))


@pytest.mark.parametrize(("name", "shape"), [("efficientnet_b0", (1, 320, 3, 2)), ("regnety_002", (1, 368, 3, 2))])
def test_other_models_give_the_last_of_timms_maps(name, shape):
    backbone, x = load_backbone(f"random:{name}"), golden_input(1, 96, 64)
    assert backbone.capabilities == {"features", "map"} and backbone.feature_map(x).shape == shape
    with torch.no_grad():
        want = backbone.module.forward_intermediates(x, indices=1, intermediates_only=True)
    assert torch.equal(backbone.feature_map(x), want[-1])
    with pytest.raises(UnsupportedCapability, match="has no keys"):
        backbone.keys(x)


def test_pixels():
    backbone = load_backbone("pixels")
    x = golden_input(2, 32, 48)
    want = x.reshape(2, 3, 16, 2, 16, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(backbone.features(x), want)
    assert (backbone.embed_dim, backbone.info.method, backbone.capabilities) == (768, "pixels", {"features", "map"})
    torch.testing.assert_close(backbone.feature_map(x), x.reshape(2, 3, 16, 2, 16, 3).mean((3, 5)))
    assert load_backbone("pixels:8").embed_dim == 192
    with pytest.raises(UserError, match="whole number"):
        load_backbone("pixels:none")
    with pytest.raises(UnsupportedCapability):
        backbone.layers(x)


def test_a_model_of_one_size_refuses_others():
    with pytest.raises(UserError, match=r"mixer_s32_224.* refuses \(64, 64\) images"):
        load_backbone("random:mixer_s32_224").features(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("precision", "nearly"), [("32", 1e-6), ("bf16", 0.05)])
@pytest.mark.parametrize(("batch", "side"), [(1, 224), (3, 96), (7, 64), (16, 64), (33, 48)])
def test_what_cls_does_not_need_is_left_out(tiny, batch, side, precision, nearly):
    """Features without the last block's other tokens, attention without what follows its queries and keys.

    On the machines seen not one bit differs; a BLAS that chooses kernels otherwise may differ in the last.
    """
    x = golden_input(batch, side, side)
    with torch.inference_mode(), autocast(torch.device("cpu"), precision):
        ((cls, _),), attention = tiny[16].layers_and_attention(x, 1)
        torch.testing.assert_close(tiny[16].features(x), cls, rtol=nearly, atol=nearly)
        torch.testing.assert_close(tiny[16].cls_attention(x), attention, rtol=nearly, atol=nearly)


def test_the_last_block_computes_what_cls_needs_and_all_of_it_where_it_learns(tiny, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    backbone, rows = tiny[16].clone(), []
    block = backbone.module.blocks[-1]
    block.mlp.register_forward_hook(lambda module, args, output: rows.append(output.shape[:2].numel()))
    block.attn.proj.register_forward_hook(lambda *_: rows.append("attended"))
    x = golden_input(16, 224, 224)
    backbone.features(x)
    assert rows == ["attended", 16 * 64] and not any(p.grad is not None for p in backbone.module.parameters())
    backbone.cls_attention(x)
    assert len(rows) == 2
    backbone.module.train()
    backbone.features(x)
    assert rows[2:] == ["attended", 16 * 197]
