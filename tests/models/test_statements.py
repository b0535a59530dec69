"""What decides a model beside its tensors: who is believed, what is no statement, what is not guessed in silence."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from helpers.checkpoints import VIT
from helpers.families_plain import timm_vit
from helpers.pretraining import make
from helpers.pretraining import save as save_training
from helpers.weights import args, golden_input, huggingface, prefixed, save, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import QuickGELU

from dinobench.errors import UserError
from dinobench.models.loading import inspect_checkpoint, load_backbone

X = golden_input(1, 64, 64)


def folder(path: Path, config: dict | str, tensors=None, **others: dict) -> Path:
    """A Hugging Face model folder."""
    path.mkdir(exist_ok=True)
    safetensors.torch.save_file(huggingface(VIT) if tensors is None else tensors, path / "model.safetensors")
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, content in others.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@settings(max_examples=15, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 4, 8]), act=st.sampled_from(["gelu", "quick_gelu"]), eps=st.sampled_from([1e-3, 1e-12])
)
def test_a_config_is_what_decides(tmp_path_factory, heads, act, eps):
    path = folder(
        tmp_path_factory.mktemp("hf"), {"num_attention_heads": heads, "hidden_act": act, "layer_norm_eps": eps}
    )
    layer = {"act_layer": QuickGELU} if act == "quick_gelu" else {}
    model = timm_vit(VIT, heads, norm_layer=functools.partial(torch.nn.LayerNorm, eps=eps), **layer)
    for place in (path, path / "model.safetensors"):
        backbone = load_backbone(place)
        with torch.no_grad():
            torch.testing.assert_close(backbone.features(X), model.forward_features(X)[:, 0], rtol=1e-4, atol=1e-5)
    facts = {name: (value, origin) for name, value, origin in inspect_checkpoint(path).facts}
    assert facts["heads"] == (heads, "config.json") and facts["activation"] == (act, "config.json")
    usual = load_backbone(save(VIT, path / "plain.pth"))
    assert backbone.info.weights_digest != usual.info.weights_digest  # a config.json beside another file is not its own


def test_what_the_images_are_normalised_with(tmp_path):
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    told = load_backbone(folder(tmp_path / "a", {}, preprocessor_config=half)).info.input
    assert (told.mean, told.std, told.origin) == ((0.5,) * 3, (0.5,) * 3, "preprocessor_config.json")
    plain = load_backbone(folder(tmp_path / "b", {}, preprocessor_config={"do_normalize": False})).info.input
    assert (plain.mean, plain.std) == ((0.0,) * 3, (1.0,) * 3)
    timm_s = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    tensors = vit(width=192, depth=12, image=224)
    assert load_backbone(folder(tmp_path / "c", timm_s, tensors)).info.input.origin == "config.json (timm)"
    assert load_backbone(folder(tmp_path / "d", {})).info.input is None
    with pytest.raises(UserError, match=r"model\.safetensors: its input, by preprocessor_config\.json: std"):
        load_backbone(folder(tmp_path / "e", {}, preprocessor_config=half | {"image_std": [0.0001] * 3}))


def test_an_architecture_s_name_tells_its_input_where_that_is_one(tmp_path):
    """A plain ViT's does not: self-supervised trainings take ImageNet's, timm's own weights of the name others."""
    half = (0.5,) * 3
    lite = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    path = save(lite.state_dict(), tmp_path / "lite.pth")
    told = load_backbone(path, arch="tf_efficientnet_lite0").info.input
    assert (told.mean, told.std, told.origin) == (half, half, "--arch tf_efficientnet_lite0")
    tiny = save(vit(width=192, depth=12, image=224), tmp_path / "tiny.pth")
    assert load_backbone(tiny, arch="vit_tiny_patch16_224").info.input is None
    assert load_backbone(tiny, arch="vit_tiny_patch16_224.augreg_in21k").info.input.mean == half
    own = {"input": {"mean": list(half), "std": list(half)}, "model": VIT}
    assert load_backbone(save(own, tmp_path / "own.pth")).info.input.origin == "the file's input"


@pytest.mark.parametrize("content", ["[1]", "{", "null", "[" * 100_000, "\xff"])
def test_a_config_that_is_none_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"config\.json: is no JSON object.*copy it again") as error:
        load_backbone(folder(tmp_path / "a", content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": True, "layer_norm_eps": "1e-5", "hidden_act": 7, "image_size": "no"},
        {"num_attention_heads": -3, "layer_norm_eps": float("nan"), "hidden_act": "a\nb", "image_size": [1, 2, 3]},
        {"num_attention_heads": 1 << 70, "layer_norm_eps": -1.0, "rope_parameters": 3, "vision_config": []},
    ],
)
def test_values_of_another_kind_are_no_statements(tmp_path, config):
    found = load_backbone(folder(tmp_path / "a", config))
    assert found.info.weights_digest == load_backbone(save(VIT, tmp_path / "x.pth")).info.weights_digest


def test_an_unknown_activation_is_not_replaced(tmp_path):
    with pytest.raises(UserError, match=r"activation 'mish' \(from config\.json\) is none of gelu, .*--arch"):
        load_backbone(folder(tmp_path / "a", {"hidden_act": "mish"}))


@pytest.mark.parametrize(("arch", "depth", "method"), [("vit_small", 1, "mocov3"), ("vit_tiny", 2, "dino")])
def test_our_checkpoints_are_read_as_they_were_trained(tmp_path, arch, depth, method):
    """A MoCo v3 of ours has the usual heads, not the twelve of that repository's ViT-S."""
    trained, optimizer, chosen = make(arch=arch, depth=depth, image_size=32)
    path = save_training(tmp_path / "checkpoint.pth", trained, optimizer, chosen)
    with torch.serialization.safe_globals([type(args())]):
        state = torch.load(path, weights_only=True)
    state["args"].method = method
    x = golden_input(1, 32, 32)
    for old in (False, True):
        if old:
            del state["dinobench"]["model"]  # as checkpoints were before they had a header
        torch.save(state, path)
        backbone = load_backbone(path)
        with torch.no_grad():
            torch.testing.assert_close(backbone.features(x), trained.teacher.eval().backbone(x), rtol=1e-4, atol=1e-5)
        assert backbone.info.method == method


def sincos(width: int, side: int, slow_first: bool) -> torch.Tensor:
    """Fixed positions as MoCo v3 (slow first) and MAE have them, zeros for CLS."""
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    place = torch.arange(side * side)
    slow, fast = (p.double()[:, None] * frequencies for p in (place // side, place % side))
    one, two = (slow, fast) if slow_first else (fast, slow)
    rows = torch.cat([one.sin(), one.cos(), two.sin(), two.cos()], dim=1)
    return torch.cat([torch.zeros(1, width), rows.float()])[None]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_moco_v3_is_known_by_its_fixed_positions(tmp_path, kind):
    """Files of its linear evaluation have no other mark; its ViT-S has 12 heads where others of that width have 6."""
    head = {"head.weight": torch.ones(10, 384), "head.bias": torch.ones(10)}
    tensors = vit(width=384, depth=1) | {"pos_embed": sincos(384, 4, True)}
    narrow = {n: t.to(kind) for n, t in (tensors | head).items()}
    path = save({"state_dict": prefixed(narrow, "module.")}, tmp_path / "x.pth")
    assert load_backbone(path).info.heads == 12
    other = save(tensors | {"pos_embed": sincos(384, 4, False)}, tmp_path / "mae.pth")
    assert load_backbone(other).info.heads == 6
    assert load_backbone(path, heads=6).info.heads == 6


def test_methods_are_named_by_marks_that_no_other_has(tmp_path):
    """timm's models with registers, and TIPS with DINOv2's names and one register, are not DINOv2's."""
    scaled = vit(registers=4, v2=True)
    timm_s = {n.replace("register_tokens", "reg_token"): t for n, t in scaled.items() if n != "mask_token"}
    cases = {"dinov2": scaled, "unknown": timm_s, "unknown ": vit(registers=1, v2=True)}
    for method, tensors in cases.items():
        assert load_backbone(save(tensors, tmp_path / "x.pth")).info.method == method.strip()


def test_what_was_assumed_is_shown(tmp_path):
    facts = {name: origin for name, _, origin in inspect_checkpoint(save(VIT, tmp_path / "x.pth")).facts}
    assert facts["heads"] == "assumed: 64 numbers a head" and facts["eps"] == "the releases'"
    assert {n: o for n, _, o in inspect_checkpoint(tmp_path / "x.pth", heads=2, pool="mean").facts}[
        "heads"
    ] == "--heads"
