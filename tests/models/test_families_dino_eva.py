"""DINOv3, EVA and BEiT read as their own programs read them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import timm
import torch
from helpers import families_dino_eva as made
from helpers.paths import GOLDEN
from helpers.weights import Tensors, fill, golden_input, save

from dinobench.errors import UserError
from dinobench.models.architecture import Architecture, build_computed
from dinobench.models.loading import inspect_checkpoint, load_backbone

CASES = made.cases()


def dinov3_shapes(gated: bool) -> Tensors:
    """ViT-S/16 and S+/16 in the names of facebookresearch/dinov3, by the rule of the golden values."""
    shapes = {"cls_token": (1, 1, 384), "storage_tokens": (1, 4, 384), "mask_token": (1, 384)}
    shapes |= {"patch_embed.proj.weight": (384, 3, 16, 16), "patch_embed.proj.bias": (384,)}
    layers = {"attn.qkv": (1152, 384), "attn.proj": (384, 384)}
    layers |= (
        {"mlp.w1": (1536, 384), "mlp.w2": (1536, 384), "mlp.w3": (384, 1536)}
        if gated
        else {"mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}
    )
    for i in range(12):
        for layer, shape in layers.items():
            shapes |= {f"blocks.{i}.{layer}.weight": shape, f"blocks.{i}.{layer}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{i}.{name}"] = (384,)
    tensors = {n: fill(n, s) for n, s in (shapes | {"norm.weight": (384,), "norm.bias": (384,)}).items()}
    mask = torch.ones(1152).index_fill_(0, torch.arange(384, 768), 0.0)
    tensors |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(12)}
    return tensors | {"rope_embed.periods": 100.0 ** (2 * torch.arange(16) / 32)}


@pytest.mark.parametrize("gated", [False, True], ids=["vits16", "vits16plus"])
def test_dinov3_meets_the_reference(gated, tmp_path):
    golden = np.load(GOLDEN / "vit_forward_dinov3.npz")
    backbone = load_backbone(save(dinov3_shapes(gated), tmp_path / "v3.pth"))
    for height, width in ((224, 224), (160, 240)):
        prefix = f"dinov3_vits16{'plus' if gated else ''}_{height}x{width}"
        x = golden_input(1, height, width)
        layers = backbone.layers(x, 4)
        cls, patches = layers[-1]
        for got, name in (
            (backbone.features(x), "cls"),
            (cls, "cls"),
            (torch.cat([patches[:, :5], patches[:, -5:]], 1), "patch_first5_last5"),
            (torch.stack([layer for layer, _ in layers]), "layer_cls"),
        ):
            np.testing.assert_allclose(got.numpy(), golden[f"{prefix}/{name}"], atol=1e-4, rtol=0)
    info = backbone.info
    assert (info.arch, info.method, info.registers, info.heads, info.patch_size) == (
        f"vit_small{'_plus' if gated else ''}_patch16_dinov3", "dinov3", 4, 6, 16,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "prefix", "size"),
    [(made.hf_dinov3, 5, (64, 96)), (made.hf_beit, 1, (64, 64))],
    ids=["dinov3", "beit"],
)
def test_attention_of_cls_is_the_last_blocks(make, prefix, size, tmp_path):
    """transformers' own softmax: CLS's row, the columns of the patches (registers are none)."""
    model, x = make(), made.images(*size)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        want = model(x, output_attentions=True)
    backbone = load_backbone(tmp_path)
    layers, attention = backbone.layers_and_attention(x, 2)
    torch.testing.assert_close(attention, want.attentions[-1][:, :, 0, prefix:], atol=1e-5, rtol=0)
    patches = want.last_hidden_state[:, prefix:]
    if prefix == 5:
        torch.testing.assert_close(layers[-1][1], patches, atol=1e-4, rtol=0)
    assert layers[0][1].shape == patches.shape and not hasattr(backbone.module.blocks[-1].attn, "_seen")


@pytest.mark.parametrize(
    ("make", "prefix", "size"),
    [(made.hf_dinov3, 5, (64, 96)), (made.hf_beit, 1, (64, 64))],
    ids=["dinov3", "beit"],
)
def test_keys_and_blocks_are_transformers_own(make, prefix, size, tmp_path):
    """What its layer for keys puts out, before positions are rotated in, and its hidden states."""
    model, x, seen = make(), made.images(*size), []
    model.save_pretrained(tmp_path)
    (projection,) = [module for name, module in model.named_modules() if name.endswith("1.attention.k_proj")]
    projection.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        states = model(x, output_hidden_states=True).hidden_states
    backbone = load_backbone(tmp_path)
    want = seen[0][:, prefix:].unflatten(2, (backbone.info.heads, -1)).transpose(1, 2)
    torch.testing.assert_close(backbone.keys(x), want, atol=1e-4, rtol=0)
    ((cls, patches),) = backbone.blocks(x, [0])
    torch.testing.assert_close(
        torch.cat([cls[:, None], patches], 1), states[1][:, [0, *range(prefix, states[1].shape[1])]]
    )


def test_eva_gives_attention(tmp_path):
    module = made.from_timm("eva02_base_patch14_224", img_size=56, dynamic_img_size=True)()
    x = made.images(56, 84)
    backbone = load_backbone(save(module.state_dict(), tmp_path / "eva.pth"))
    attention = backbone.cls_attention(x)
    assert attention.shape == (2, 2, 24) and bool((attention.sum(-1) < 1).all())


def test_dinov3_computes_with_the_periods_of_its_file(tmp_path):
    """The releases hold them rounded to bfloat16, and their program computes with those."""
    model, x = made.hf_dinov3(), made.images(64, 96)
    tensors = made.original_dinov3(model)
    exact = load_backbone(save(tensors, tmp_path / "exact.pth"))
    rounded = tensors["rope_embed.periods"].bfloat16()
    own = load_backbone(save(tensors | {"rope_embed.periods": rounded}, tmp_path / "rounded.pth"))
    model.rope_embeddings.inv_freq.copy_(1 / rounded.float())
    want = made.features(model, x)
    torch.testing.assert_close(own.features(x), want, atol=1e-4, rtol=0)
    assert (exact.features(x) - want).abs().max() > 1e-3
    assert own.info.weights_digest != exact.info.weights_digest


def test_one_model_in_three_layouts_has_one_digest(tmp_path):
    model = made.hf_dinov3()
    model.save_pretrained(tmp_path / "hf")
    original = load_backbone(save(made.original_dinov3(model), tmp_path / "original.pth"))
    timms = load_backbone(save(original.module.state_dict(), tmp_path / "timm.pth"))
    folder = load_backbone(tmp_path / "hf")
    assert original.info.weights_digest == folder.info.weights_digest == timms.info.weights_digest


def test_masked_pretraining_is_pooled_over_patches(tmp_path):
    model, x = made.hf_beit(use_mean_pooling=False, layer_norm_eps=1e-6), made.images(64, 64)
    tensors = made.original_beit(model)
    beside = {"mask_token": torch.ones(1, 1, 64), "lm_head.weight": torch.ones(8, 64), "lm_head.bias": torch.ones(8)}
    backbone = load_backbone(save(tensors | beside, tmp_path / "beit.pth"))
    with torch.no_grad():
        tokens = model(x).last_hidden_state
    torch.testing.assert_close(backbone.features(x), tokens[:, 1:].mean(1), atol=1e-4, rtol=0)
    cls = load_backbone(tmp_path / "beit.pth", pool="cls")
    torch.testing.assert_close(cls.features(x), tokens[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("gated", [False, True])
def test_heads_are_read_where_tensors_tell_them(heads, gated, tmp_path):
    """DINOv3's periods, BEiT's tables and EVA-02's: none is guessed from the width."""
    dino = made.hf_dinov3(num_attention_heads=heads, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu")
    beit = made.hf_beit(num_attention_heads=heads, layer_norm_eps=1e-6)
    eva = made.from_timm("eva02_base_patch14_224", img_size=56, num_heads=heads, scale_attn_inner=gated)()
    for model, tensors, x in (
        (dino, made.original_dinov3(dino), made.images(32, 48)),
        (beit, made.original_beit(beit), made.images(64, 64)),
        (eva, made.original_eva02(eva), made.images(56, 56)),
    ):
        backbone = load_backbone(save(tensors, tmp_path / "model.pth"))
        assert backbone.info.heads == heads
        torch.testing.assert_close(backbone.features(x), made.features(model, x), atol=1e-4, rtol=0)


def test_heads_of_the_larger_dinov3_models_are_known(tmp_path):
    """H+ has 20 heads, where plain ViTs of its width have 16."""
    module = timm.create_model("vit_huge_plus_patch16_dinov3_qkvb", depth=1, num_classes=0)
    info = inspect_checkpoint(save(module.state_dict(), tmp_path / "h.pth")).info
    assert (info.heads, info.registers) == (20, 4)


def test_what_tensors_leave_open_is_asked_for(tmp_path):
    shapes = {"embed_dim": 72, "depth": 1, "num_heads": 3, "num_classes": 0}
    module = timm.create_model("vit_small_patch16_dinov3", **shapes)
    path = save(module.state_dict(), tmp_path / "odd.pth")
    with pytest.raises(UserError, match="how many attention heads a ViT of width 72 has is not clear; give --heads"):
        load_backbone(path)
    assert load_backbone(path, heads=6).info.heads == 6
    with pytest.raises(UserError, match="5 heads do not divide the width 72"):
        load_backbone(path, heads=5)


def test_positions_that_fit_no_square_are_asked_for(tmp_path):
    module = made.from_timm("beit_base_patch16_224", img_size=(32, 96))()
    path = save(module.state_dict(), tmp_path / "beit.pth")
    with pytest.raises(UserError, match="--grid"):
        load_backbone(path)
    with pytest.raises(UserError, match="give another --grid"):
        load_backbone(path, grid="3x4")
    x = made.images(32, 96)
    torch.testing.assert_close(load_backbone(path, grid="2x6").features(x), made.features(module, x))


def test_beit_refuses_heads_against_its_tables(tmp_path):
    path = save(made.original_beit(made.hf_beit()), tmp_path / "beit.pth")
    with pytest.raises(UserError, match=r"tables of relative positions are of 4 heads, not 2 \(--heads\)"):
        load_backbone(path, heads=2)


def test_norms_after_branches_are_not_guessed(tmp_path):
    module = timm.create_model("eva_giant_patch14_224", embed_dim=1792, depth=1, num_heads=16, num_classes=0)
    path = save(module.state_dict(), tmp_path / "e.pth")
    with pytest.raises(UserError, match="eva02_enormous_patch14_clip_224"):
        load_backbone(path)


@pytest.mark.parametrize(
    ("arch", "size"),
    [("vit_small_patch16_dinov3", 32), ("eva02_tiny_patch14_224", 224), ("swin_tiny_patch4_window7_224", 224)],
)
def test_models_with_computed_buffers_load_by_name(arch, size, tmp_path, monkeypatch):
    """Tables of positions that no file holds are those of a module built whole."""
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, *args, **kwargs: tensor)  # drawn below
    module = made.randomized(timm.create_model(arch, num_classes=0, global_pool="token" if "dino" in arch else "avg"))
    x = made.images(size, size, 1)
    state = torch.random.get_rng_state()
    backbone = load_backbone(save(module.state_dict(), tmp_path / "model.pth"), arch=arch)
    torch.testing.assert_close(backbone.features(x), made.features(module, x), atol=1e-4, rtol=0)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with the whole module"])
def test_computed_buffers_are_those_of_a_whole_module(alone, monkeypatch):
    """Also where the owner of a buffer cannot compute it alone, as in timm's before 1.0.2x or another library's."""
    if not alone:
        monkeypatch.delattr("timm.layers.pos_embed_sincos.RotaryEmbeddingDinoV3.init_non_persistent_buffers")
        monkeypatch.delattr("timm.models.beit.Attention.init_non_persistent_buffers")
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 0}
    for name in ("beit_base_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"):
        build = functools.partial(timm.create_model, name, **sizes)
        whole, computed = build(), build_computed(Architecture("tokens", name, 64, build))
        stored, buffers = set(whole.state_dict()), dict(computed.named_buffers())
        assert set(buffers) - stored
        for buffer, wanted in whole.named_buffers():
            if buffer not in stored:
                torch.testing.assert_close(buffers[buffer], wanted, atol=0, rtol=0)


def test_a_model_by_name_is_read_in_its_authors_layout_too(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, *args, **kwargs: tensor)
    model, x = (
        made.hf_dinov3(hidden_size=192, num_attention_heads=3, num_hidden_layers=12, intermediate_size=768),
        (made.images(32, 48)),
    )
    model.save_pretrained(tmp_path)
    save(made.original_dinov3(model), tmp_path / "original.pth")
    for path in (tmp_path, tmp_path / "original.pth"):
        backbone = load_backbone(path, arch="vit_tiny_patch16_dinov3_qkvb")
        torch.testing.assert_close(backbone.features(x), made.features(model, x), atol=1e-4, rtol=0)


def test_tables_of_relative_positions_that_would_fill_the_memory_are_refused(tmp_path):
    tensors = made.original_beit(made.hf_beit(**made.SHARED))
    tensors["rel_pos_bias.relative_position_bias_table"] = torch.ones(999 * 999 + 3, 1)
    with pytest.raises(UserError, match="a grid of 500x500 would need"):
        load_backbone(save(tensors, tmp_path / "beit.pth"))


DAMAGES = {
    "scalar": lambda t: t.sum(),
    "empty": lambda t: t[:0],
    "without its last axis' values": lambda t: t[..., :0],
    "flat": lambda t: t.flatten(),
    "one more axis": lambda t: t[None],
    "half of its rows": lambda t: t[: len(t) // 2],
    "one row more": lambda t: torch.cat([t, t[:1]]),
    "whole numbers": lambda t: t.long(),
    "half precision": lambda t: t.half(),
}


@pytest.mark.parametrize(
    "layout", [c for c in CASES if "facebookresearch" in c.layout or "unilm" in c.layout or "baai" in c.layout],
    ids=lambda c: f"{c.family}-{c.layout}",
)  # fmt: skip
def test_damaged_tensors_are_refused_in_one_line(layout, tmp_path):
    """No other error than a UserError, whatever single tensor is of another shape or kind."""
    written = layout.build(tmp_path)
    path, options = written.path, written.options
    whole = torch.load(path, weights_only=True)
    tensors = whole.get("teacher", whole)
    generator = np.random.default_rng(0)
    for damage in DAMAGES.values():
        for name in generator.choice(sorted(n for n in tensors if ".1." not in n), 2, replace=False):
            if tensors[name].ndim:
                save(tensors | {name: damage(tensors[name])}, path)
                try:
                    load_backbone(path, **options)
                except UserError as error:
                    assert "\n" not in str(error)
