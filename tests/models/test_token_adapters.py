"""timm's own forward passes behind our adapters: what the feature is made of, block outputs, attention, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from helpers.weights import golden_input

from dinobench.errors import UnsupportedCapability, UserError
from dinobench.models.factory import describe
from dinobench.models.loading import load_backbone
from dinobench.models.token_adapters import MapBackbone, TokenBackbone

X = golden_input(2, 64, 64)
SMALL = {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
# timm's name -> what makes it small
MODELS = {
    "eva02_tiny_patch14_224": {"img_size": 56},
    "vit_small_patch16_dinov3": {"global_pool": "token"},
    "beit_base_patch16_224": {},
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_gap_224": {},
}


def small(name: str, **kwargs) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, **(SMALL | MODELS[name] | kwargs)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def adapted(model: torch.nn.Module, name: str, pool: str | None = None) -> TokenBackbone:
    architecture = describe(model, name)
    assert architecture.family == "tokens"
    info = replace(load_backbone("pixels").info, embed_dim=architecture.embed_dim, arch=architecture.arch)
    return TokenBackbone(model, info, pool or architecture.pool)


def images(name: str) -> torch.Tensor:
    side = MODELS[name].get("img_size", 64)
    return X[..., :side, :side]


@pytest.mark.parametrize("name", MODELS)
def test_the_feature_is_what_enters_the_classifier(name):
    model = small(name)
    backbone = adapted(model, name)
    with torch.no_grad():
        tokens = model.forward_features(images(name))
        torch.testing.assert_close(backbone.features(images(name)), model.forward_head(tokens, pre_logits=True))
    ((feature, patches),) = backbone.layers(images(name))
    torch.testing.assert_close(feature, backbone.features(images(name)))
    assert patches.shape == (2, 16, 32)
    older, newer = backbone.layers(images(name), 2)
    torch.testing.assert_close(newer[0], feature)
    assert not torch.equal(older[1], newer[1])
    with pytest.raises(UserError, match="3 last blocks asked for, the model has 2"):
        backbone.layers(images(name), 3)
    with pytest.raises(UserError, match="is not a multiple of the patch size"):
        backbone.features(X[..., :50, :])


def test_other_features_than_the_authors_take():
    model = small("vit_small_patch16_dinov3")
    cls, mean, both = (
        adapted(model, "vit_small_patch16_dinov3", pool).features(X) for pool in ("cls", "mean", "cls+mean")
    )
    with torch.no_grad():
        tokens = model.forward_features(X)
    torch.testing.assert_close(cls, tokens[:, 0])
    torch.testing.assert_close(mean, tokens[:, model.num_prefix_tokens :].mean(dim=1))
    torch.testing.assert_close(both, torch.cat([cls, mean], dim=1))
    with pytest.raises(UserError, match="has no attention pooling for --pool map; use --pool mean"):
        adapted(model, "vit_small_patch16_dinov3", "map")
    siglip = small("vit_base_patch16_siglip_224")
    with pytest.raises(UserError, match="has no CLS token for --pool cls; use --pool mean"):
        adapted(siglip, "vit_base_patch16_siglip_224", "cls")
    with pytest.raises(UnsupportedCapability, match=r"CLS attention is not applicable: .* has no CLS token"):
        adapted(siglip, "vit_base_patch16_siglip_224").cls_attention(X)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "beit_base_patch16_224"])
def test_attention_is_what_the_values_are_weighted_with(name):
    """With the values of the last block set to one-hot rows of patches, its output is the attention itself."""
    model = small(name)
    backbone = adapted(model, name)
    x = images(name)
    layers, attention = backbone.layers_and_attention(x)
    torch.testing.assert_close(layers[0][0], backbone.features(x))
    assert attention.shape == (2, 2, 16) and (attention > 0).all() and (attention.sum(-1) < 1).all()
    seen = []
    block = model.blocks[-1].attn
    hook = block.attn_drop.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    fused, block.fused_attn = block.fused_attn, False
    with torch.no_grad():
        model.forward_features(x)
    hook.remove()
    block.fused_attn = fused
    torch.testing.assert_close(attention, seen[0][:, :, 0, model.num_prefix_tokens :])
    torch.testing.assert_close(seen[0].sum(-1), torch.ones_like(seen[0].sum(-1)))


@pytest.mark.parametrize("name", MODELS)
def test_blocks_keys_and_map_are_those_of_timms_modules(name):
    model = small(name)
    backbone, x, n = adapted(model, name), images(name), model.num_prefix_tokens
    seen, entered = [], []
    hooks = [block.register_forward_hook(lambda m, args, output: seen.append(output)) for block in model.blocks]
    hooks.append(model.blocks[-1].attn.register_forward_pre_hook(lambda m, args: entered.append(args[0])))
    with torch.no_grad():
        model.forward_features(x)
    for hook in hooks:
        hook.remove()
    first, again, last = backbone.blocks(x, (0, 0, -1))
    for (cls, patches), want in ((first, seen[0]), (again, seen[0]), (last, seen[1])):
        torch.testing.assert_close(patches, want[:, n:])
        assert cls is None if model.cls_token is None else torch.equal(cls, want[:, 0])
    ((_, normed),) = backbone.layers(x)
    torch.testing.assert_close(backbone.blocks(x, [1], norm=True)[0][1], normed)
    torch.testing.assert_close(backbone.feature_map(x), normed.transpose(1, 2).reshape(2, 32, 4, 4))
    assert {"keys", "map"} <= backbone.capabilities
    with torch.no_grad():
        torch.testing.assert_close(backbone.keys(x), written_out_keys(model.blocks[-1].attn, entered[0][:, n:]))
    with pytest.raises(UserError, match=r"blocks \[2\] asked for, the model has those from 0 to 1"):
        backbone.blocks(x, [2])


def written_out_keys(attention: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """As each attention of timm's computes them before it turns them by their positions: (B, heads, N, 16)."""
    b, t, _ = tokens.shape
    if attention.qkv is None:
        return attention.k_proj(tokens).reshape(b, t, 2, 16).transpose(1, 2)
    qkv = attention.qkv(tokens)
    if getattr(attention, "q_bias", None) is not None:
        qkv = qkv + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return qkv.reshape(b, t, 3, 2, 16)[:, :, 1].transpose(1, 2)


def test_a_block_without_such_a_layer_has_no_keys():
    model = small("vit_base_patch16_gap_224")
    model.blocks[-1].attn.qkv = torch.nn.Identity()
    backbone = adapted(model, "vit_base_patch16_gap_224")
    assert "keys" not in backbone.capabilities
    with pytest.raises(UnsupportedCapability, match="has no keys to show"):
        backbone.keys(X)


def test_hierarchical_models_give_their_last_map():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kwargs = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2}
        model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, num_classes=0, **kwargs).eval()
    info = replace(load_backbone("pixels").info, embed_dim=128)
    backbone = MapBackbone(model, info)
    with torch.no_grad():
        maps = model.forward_features(X)
        torch.testing.assert_close(backbone.features(X), model.forward_head(maps, pre_logits=True))
    ((feature, patches),) = backbone.layers(X)
    torch.testing.assert_close(patches, maps.flatten(1, 2))
    assert torch.equal(backbone.feature_map(X), maps.permute(0, 3, 1, 2))
    for refused in (lambda: backbone.blocks(X, [0]), lambda: backbone.keys(X)):
        with pytest.raises(UnsupportedCapability, match="has no"):
            refused()
    torch.testing.assert_close(feature, patches.mean(dim=1), rtol=1e-4, atol=1e-5)
    assert backbone.patch_size == 32
    with pytest.raises(UnsupportedCapability, match="has one block output to give, not 2"):
        backbone.layers(X, 2)
    with pytest.raises(UserError, match=r"refuses \(50, 64\) images"):
        backbone.features(X[..., :50, :])
