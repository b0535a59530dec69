"""What decides a model beside its tensors: who is believed, what is no statement, what is not guessed in silence."""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from helpers.checkpoints import VIT
from helpers.families_dino_eva import from_timm, hf_dinov3, original_dinov3
from helpers.families_more import Data2Vec2
from helpers.families_plain import timm_vit
from helpers.pretraining import make
from helpers.pretraining import save as save_training
from helpers.weights import args, golden_input, huggingface, prefixed, save, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import QuickGELU

from dinobench.errors import UserError
from dinobench.inputs import reading_lines
from dinobench.models.architecture import HEADS
from dinobench.models.families.family import ACTIVATIONS
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
    cases: list[tuple[str, dict]] = [("tips", vit(registers=1, v2=True)), ("unknown", vit(registers=2, v2=True))]
    for registers in (0, 4):
        original = vit(registers=registers, v2=True)
        timm_s = {n.replace("register_tokens", "reg_token"): t for n, t in original.items() if n != "mask_token"}
        depth_anything = prefixed(original, "pretrained.") | {"depth_head.projects.0.weight": torch.ones(2, 2)}
        cases += [("dinov2", original), ("dinov2", huggingface(original, v2=True)), ("unknown", timm_s)]
        cases += [("unknown", depth_anything)]
    own = dict(vit(registers=1, v2=True))
    head = {"teacher.ibot_head.mlp.0.weight": torch.ones(2, 2)}
    cases += [("dinov2", prefixed(own, "teacher.backbone.") | head), ("dinov2", {"method": "DINOv2", **own})]
    plain = {n: t for n, t in own.items() if n != "mask_token" and ".ls" not in n}
    cases += [("unknown", {n.replace("register_tokens", "reg_token"): t for n, t in plain.items()})]
    dinov3 = hf_dinov3()
    cases += [("dinov3", original_dinov3(dinov3)), ("dinov3", dict(dinov3.state_dict()))]
    cases += [("unknown", dict(from_timm("vit_small_patch16_dinov3")().state_dict()))]  # others train such too
    for method, tensors in cases:
        found = load_backbone(save(tensors, tmp_path / "x.pth")).info
        assert found.method == method, list(tensors)[:3]
        assert (found.input is None) == (method != "tips")  # whose images are not normalised


def test_timm_s_tips_are_known_by_their_size(tmp_path):
    """Its files have no mask token; a model of one register and another grid may be anybody's."""
    for size, patch, known in ((224, 14, True), (448, 14, True), (112, 14, False), (256, 16, False)):
        tensors = vit(registers=1, v2=True, depth=1, image=size, patch=patch)
        path = save(
            {n.replace("register_tokens", "reg_token"): t for n, t in tensors.items() if n != "mask_token"},
            tmp_path / "x.pth",
        )
        found = load_backbone(path).info
        assert (found.method == "tips") == known == (found.input is not None)


def test_what_was_assumed_is_shown(tmp_path):
    facts = {name: origin for name, _, origin in inspect_checkpoint(save(VIT, tmp_path / "x.pth")).facts}
    assert facts["heads"] == "assumed: 64 numbers a head" and facts["eps"] == "the releases'"
    assert {n: o for n, _, o in inspect_checkpoint(tmp_path / "x.pth", heads=2, pool="mean").facts}[
        "heads"
    ] == "--heads"


KINDS = ("folder", "header", "args", "options", "nothing")


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 6), size=st.sampled_from([8, 16, 32, 64]), depth=st.integers(1, 2),
    kind=st.sampled_from(KINDS),
    act=st.sampled_from(["gelu", "quick_gelu", "relu", "gelu_tanh", "silu"]), eps=st.sampled_from([1e-6, 1e-3]),
)  # fmt: skip
def test_heads_as_written_are_those_read_or_asked_for(tmp_path_factory, heads, size, depth, kind, act, eps):
    """By a Hugging Face folder, our header, a file's arguments or --heads; never another number of them in silence."""
    width = heads * size
    tensors, place = vit(width=width, depth=depth, image=32), tmp_path_factory.mktemp("written")
    config = {"num_attention_heads": heads, "hidden_act": act, "layer_norm_eps": eps}
    header = {"heads": heads, "activation": act, "eps": eps}
    path = {
        "folder": lambda: folder(place, config, huggingface(tensors)),
        "header": lambda: save({"teacher": tensors, "dinobench": {"model": header}}, place / "x.pth"),
        "args": lambda: save({"model": tensors, "args": Namespace(num_heads=heads)}, place / "x.pth"),
    }.get(kind, lambda: save(tensors, place / "x.pth"))()
    told = kind in ("folder", "header")
    try:
        backbone = load_backbone(path, heads=heads if kind == "options" else None)
    except UserError as error:
        assert kind == "nothing" and "--heads" in str(error)
        return
    said = " ".join(backbone.assumed)
    assert "\n" not in said
    if kind != "nothing":
        assert backbone.info.heads == heads and not said
        layer = ACTIVATIONS[act] if told else torch.nn.GELU
        norm = functools.partial(torch.nn.LayerNorm, eps=eps if told else 1e-6)
        model = timm_vit(tensors, heads, size=32, act_layer=layer, norm_layer=norm)
        x = golden_input(1, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(backbone.features(x), model.forward_features(x)[:, 0], rtol=1e-4, atol=1e-4)
    elif width not in HEADS:
        assert f"{backbone.info.heads} attention heads are assumed" in said and "--heads" in said
    else:
        assert backbone.info.heads == HEADS[width] and not said


def test_what_is_assumed_is_said_once(tmp_path):
    """By every run, whatever the number of its protocols, and not where it is told."""
    path = save(VIT, tmp_path / "x.pth")
    one, told = load_backbone(path), load_backbone(path, heads=2)
    assert not told.assumed
    said = f"{path}: 1 attention heads are assumed, 64 numbers each: "
    assert [line.startswith(said) for line in reading_lines([one, told, load_backbone(path)])] == [True]


@pytest.mark.parametrize("name", ["modality_encoders.IMAGE.context_encoder.blocks.300.mlp.fc1.weight", "blocks.999.x"])
def test_absurd_numbers_of_blocks_are_refused(tmp_path, name):
    """Also where joining or renumbering comes before the architecture is looked for."""
    tensors = dict(Data2Vec2().state_dict()) | {name: torch.ones(8, 8)}
    with pytest.raises(UserError, match=r"not clear from its tensors .*give --arch") as error:
        load_backbone(save({"model": tensors}, tmp_path / "x.pt"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [("extra_tokens", (64,)), ("extra_tokens", (1, 2, 64)), ("local_encoder.proj.weight", (64, 3, 2, 16, 16)),
     ("fixed_positional_encoder.positions", (1, 17, 64)), ("context_encoder.norm.weight", (63,))],
)  # fmt: skip
def test_damaged_data2vec2_is_refused_in_one_line(tmp_path, tensor, shape):
    tensors = dict(Data2Vec2().state_dict()) | {f"modality_encoders.IMAGE.{tensor}": torch.ones(shape)}
    with pytest.raises(UserError) as error:
        load_backbone(save({"model": tensors}, tmp_path / "x.pt"))
    assert "\n" not in str(error.value)
