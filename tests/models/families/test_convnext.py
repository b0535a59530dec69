"""ConvNeXts of CLIP: the layer before the classifier is part of the feature, and the input is CLIP's."""

from __future__ import annotations

import functools
import json

import pytest
import timm
import torch
from helpers.families_clip_resnet import CONVNEXT, X, convnext, open_clip_trunk
from helpers.families_hierarchical import random_values
from helpers.weights import save
from timm.models import _registry

from dinobench.errors import UserError
from dinobench.models.architecture import build_empty, cover
from dinobench.models.families import convnext as family
from dinobench.models.families import released
from dinobench.models.key_mapping import Mapped, map_keys
from dinobench.models.loading import load_backbone
from dinobench.models.spec import ModelSpec


def register(monkeypatch: pytest.MonkeyPatch, name: str, **options) -> str:
    """A small ConvNeXt under a name of timm's kind."""
    make = functools.partial(timm.models.convnext.convnext_atto, **options)
    make.__module__ = "timm.models.convnext"
    monkeypatch.setitem(_registry._model_entrypoints, name, make)
    return name


def pre_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.forward_head(model.forward_features(X), pre_logits=True)


def test_the_feature_is_what_enters_the_classifier_by_itself_and_by_name(tmp_path, monkeypatch):
    model = random_values(convnext(head_hidden_size=20))
    path, wanted = save(model.state_dict(), tmp_path / "x.pth"), pre_logits(model)
    assert wanted.shape == (2, 20)
    arch = register(monkeypatch, "convnext_small_mlp", head_hidden_size=20, **CONVNEXT)
    for options in ({}, {"arch": arch}):
        backbone = load_backbone(path, **options)
        torch.testing.assert_close(backbone.features(X), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(backbone.layers(X)[0][0], wanted, atol=1e-4, rtol=1e-4)
        assert backbone.embed_dim == 20
    assert load_backbone(path).info.input.mean == released.CLIP_MEAN


def test_open_clips_projection_of_two_layers_is_that_of_timms_model(tmp_path, monkeypatch):
    written = open_clip_trunk("mlp", tmp_path)
    arch = register(monkeypatch, "convnext_atto_mlp", head_hidden_size=24)
    for options in ({}, {"arch": arch}):
        backbone = load_backbone(written.path, **options)
        torch.testing.assert_close(backbone.features(X), written.features, atol=1e-4, rtol=1e-4)
    backbone = load_backbone(written.path)
    assert backbone.info.input.mean == released.CLIP_MEAN and backbone.info.method == "clip"


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_a_folder_of_open_clips_is_read_with_what_it_says(tmp_path, projection):
    written = open_clip_trunk(projection, tmp_path)
    path = written.path.rename(tmp_path / "open_clip_pytorch_model.bin")
    tower = {"timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": projection, "image_size": 64}
    images = {"mean": list(released.CLIP_MEAN), "std": list(released.CLIP_STD)}
    config = {"model_cfg": {"embed_dim": 12, "vision_cfg": tower}, "preprocess_cfg": images}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = load_backbone(path)
    torch.testing.assert_close(backbone.features(X), written.features, atol=1e-4, rtol=1e-4)
    assert backbone.info.input.mean == released.CLIP_MEAN and backbone.info.input.origin == "open_clip_config.json"


def test_an_open_clip_tower_is_seen_as_one_by_name_too(tmp_path, monkeypatch):
    arch = register(monkeypatch, "convnext_small_plain")  # a name that says nothing of the input, as convnext_base's
    written = open_clip_trunk("linear", tmp_path)
    backbone = load_backbone(written.path, arch=arch)
    torch.testing.assert_close(backbone.features(X), written.features, atol=1e-4, rtol=1e-4)
    assert backbone.info.input.mean == released.CLIP_MEAN and backbone.info.method == "clip"
    with pytest.raises(UserError, match=r"left over .visual.head.mlp.fc1.weight"):
        load_backbone(open_clip_trunk("mlp", tmp_path).path, arch=arch)


def test_a_model_with_that_layer_is_not_one_without(tmp_path, monkeypatch):
    arch = register(monkeypatch, "convnext_small_plain", **CONVNEXT)
    path = save(random_values(convnext(head_hidden_size=20)).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"left over|missing"):
        load_backbone(path, arch=arch)


def test_a_half_of_that_layer_is_refused(tmp_path):
    tensors = dict(random_values(convnext(head_hidden_size=20)).state_dict())
    for lost in ("weight", "bias"):
        rest = {n: t for n, t in tensors.items() if n != f"head.pre_logits.fc.{lost}"}
        with pytest.raises(UserError, match=r"left over|missing"):
            load_backbone(save(rest, tmp_path / f"{lost}.pth"))


def test_laions_largest_has_its_own_eps():
    with torch.device("meta"):
        model = timm.models.convnext.ConvNeXt(depths=(3, 4, 30, 3), dims=(384, 768, 1536, 3072), num_classes=0)
    spec = ModelSpec("x")
    found = family.infer(Mapped(dict(model.state_dict())), spec)
    assert found.arch == "convnext_xxlarge" and spec.get("eps") == 1e-5 and spec.get("mean") == released.CLIP_MEAN


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("convnext_atto", True), ("convnext_tiny_hnf", True), ("convnext_large_mlp", True), ("convnext_xxlarge", True),
        ("convnextv2_nano", True), ("test_convnext", True), ("convnext_zepto_rms", False), ("convnext_atto_ols", False),
    ],
)  # fmt: skip
def test_registered_models_are_read_as_built(name, read):
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0)
    mapped = map_keys(module.state_dict(), family.TIMM.canonical, family.OWN)
    family.finish(mapped, ModelSpec("x.pth"))
    architecture = family.infer(mapped, ModelSpec("x.pth"))
    found = build_empty(architecture)
    coverage = cover(found.state_dict(), mapped)
    assert read == (not coverage.missing and not coverage.unexpected)
    if read:
        assert computes(found) == computes(module) and not architecture.settings
        assert architecture.embed_dim == module.head_hidden_size


def computes(module: torch.nn.Module) -> set[str]:
    """What decides the outputs beside the tensors: epsilons, activations, whether there is a layer at the end."""
    kinds = {f"eps {m.eps:g}" for m in module.modules() if hasattr(m, "eps")}
    kinds |= {type(m).__name__ for m in module.modules() if "LU" in type(m).__name__}
    return kinds | {n for n, _ in module.named_parameters() if n.startswith("head.")}
