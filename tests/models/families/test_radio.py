"""RADIO at tiny sizes: positions, summary and refusals, beside timm's NaFlexVit in RADIO's configuration."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from helpers.families_clip_resnet import nvidia, radio, radio_tokens
from helpers.weights import golden_input, save
from timm.models import _registry

from dinobench.errors import UserError
from dinobench.models.families import released
from dinobench.models.families.radio import VARIANTS, Variant
from dinobench.models.loading import inspect_checkpoint, load_backbone

ARCH = "vit_tiny_patch16_radio_v9"
SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 7, "init_values": 1e-5}


@pytest.fixture(params=[True, False], ids=["corners aligned", "not aligned"])
def corners(request, monkeypatch):
    """One more release, so small that a test can hold it."""
    variant = Variant(32, 2, 2, 8, request.param)
    monkeypatch.setitem(VARIANTS, ARCH, variant)
    make = functools.partial(timm.models.vision_transformer.vit_base_patch16_radio_v3, img_size=64, **SIZES)
    make.__module__ = "timm.models.vision_transformer"
    monkeypatch.setitem(_registry._model_entrypoints, ARCH, make)
    return request.param


def written(folder, corners: bool, change=dict, summary=(0, 2)):
    model = radio(corners=corners)
    return model, save(change(nvidia(model, summary)), folder / "model.pth")


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (32, 80), (112, 48), (160, 160)])
def test_features_and_patches_at_any_size(tmp_path, corners, size):
    model, path = written(tmp_path, corners)
    x = golden_input(2, *size)
    tokens = radio_tokens(model, x)
    backbone = load_backbone(path, arch=ARCH)
    summary = tokens[:, [0, 2]].flatten(1)
    torch.testing.assert_close(backbone.features(x), summary, atol=1e-4, rtol=1e-4)
    ((feature, patches),) = backbone.layers(x)
    torch.testing.assert_close(feature, summary, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(patches, tokens[:, 8:], atol=1e-4, rtol=1e-4)
    assert backbone.cls_attention(x).shape == (2, 2, size[0] * size[1] // 256)
    assert backbone.embed_dim == 64 and backbone.info.pool == "summary"
    assert backbone.info.input.mean == released.CLIP_MEAN and backbone.info.method == "radio"


@pytest.mark.parametrize(("pool", "width"), [("cls", 32), ("mean", 32), ("cls+mean", 64)])
def test_another_feature_is_as_wide_as_its_tokens(tmp_path, corners, pool, width):
    _, path = written(tmp_path, corners)
    backbone = load_backbone(path, arch=ARCH, pool=pool)
    assert backbone.features(golden_input(1, 64, 64)).shape == (1, width) and backbone.embed_dim == width


def test_what_no_tensor_tells_is_in_the_digest(tmp_path, corners):
    paths = []
    for summary in ((0, 1), (0, 2)):
        folder = tmp_path / str(summary[1])
        folder.mkdir()
        paths.append(written(folder, corners, summary=summary)[1])
    assert len({load_backbone(path, arch=ARCH).info.weights_digest for path in paths}) == 2


def without(word: str):
    return lambda tensors: {n: t for n, t in tensors.items() if word not in n}


def replaced(name: str, tensor: torch.Tensor):
    return lambda tensors: tensors | {f"radio_model.{name}": tensor}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced("summary_idxs", torch.tensor([0, 8])), "not places of its 8 tokens"),
        (replaced("summary_idxs", torch.tensor([-1])), "not places of its 8 tokens"),
        (replaced("summary_idxs", torch.zeros(0, dtype=torch.long)), "not places"),
        (replaced("model.norm.weight", torch.ones(32)), "left over"),
        (replaced("feature_normalizer.mean", torch.ones(32)), "left over"),
        (replaced("model.patch_generator.pos_embed", torch.ones(1, 35, 32)), "no square grid"),
        (replaced("model.patch_generator.cls_token.token", torch.ones(1, 32)), "not clear"),
        (replaced("model.patch_generator.cls_token.token", torch.ones(9, 32)), f"not --arch {ARCH}"),
        (replaced("model.patch_generator.embedder.weight", torch.ones(32, 700)), "not clear"),
        (without("summary_idxs"), "does not say which"),
        (without("blocks.1.attn.qkv.bias"), "missing"),
    ],
)
def test_what_is_no_such_model_is_refused_in_one_line(tmp_path, corners, change, words):
    _, path = written(tmp_path, corners, change)
    with pytest.raises(UserError, match=words) as refused:
        load_backbone(path, arch=ARCH)
    assert "\n" not in str(refused.value)


def test_by_itself_the_releases_of_its_shape_are_named(tmp_path, corners):
    _, path = written(tmp_path, corners)
    for read in (load_backbone, inspect_checkpoint):
        with pytest.raises(UserError, match=f"give --arch, as in {ARCH}"):
            read(path)
    with pytest.raises(UserError, match=f"not --arch vit_tiny; give {ARCH}"):
        load_backbone(path, arch="vit_tiny")


def test_inspect_says_what_was_set_aside_and_who_told_the_summary(tmp_path, corners):
    _, path = written(tmp_path, corners)
    seen = inspect_checkpoint(path, arch=ARCH)
    assert not seen.missing and not seen.unexpected
    assert "radio_model.adaptors.clip.head_mlp.0.weight" in seen.ignored
    assert ("summary", (0, 2), "the file's summary_idxs") in seen.facts


def test_another_input_is_the_files(tmp_path, corners):
    half = {f"input_conditioner.norm_{n}": torch.full((3, 1, 1), 0.5) for n in ("mean", "std")}
    _, path = written(tmp_path, corners, lambda t: t | {f"radio_model.{n}": v for n, v in half.items()})
    assert load_backbone(path, arch=ARCH).info.input.mean == (0.5, 0.5, 0.5)


def test_timms_own_file_is_timms_by_name_and_refused_without(tmp_path, corners):
    model = timm.create_model(ARCH).eval()
    path, x = save(model.state_dict(), tmp_path / "timm.pth"), golden_input(1, 64, 64)
    with pytest.raises(UserError, match=r"2 backbone tensors missing .norm.weight, norm.bias.; .* --arch"):
        load_backbone(path, heads=2)
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(load_backbone(path, arch=ARCH).features(x), wanted, atol=1e-4, rtol=1e-4)
