"""What no tensor of a ViT tells: read as built, or asked for, never guessed between models that are known."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
from helpers.families_vit import X, clip_tower, timm_vit
from helpers.weights import save
from torch import nn

from dinobench.errors import UnsupportedCapability, UserError
from dinobench.models.architecture import build_empty, cover
from dinobench.models.families import vit
from dinobench.models.key_mapping import map_keys
from dinobench.models.loading import load_backbone
from dinobench.models.spec import ModelSpec

#: One of each kind that shapes leave open, and plain ones of every width.
QUICK = (
    "test_vit", "vit_base_patch16_gap_224", "vit_base_patch16_rpn_224", "vit_base_patch32_siglip_256",
    "vit_base_patch16_siglip_256", "vit_medium_patch16_reg4_gap_256", "vit_base_patch16_clip_quickgelu_224",
    "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "beit3_base_patch16_224", "vit_tiny_patch16_224",
    "vit_base_patch14_reg1_tipsv2", "vit_wee_patch16_reg1_gap_256", "aimv2_large_patch14_224",
)  # fmt: skip


def computes(module: Any) -> tuple[Any, ...]:
    """What decides the outputs beside the tensors."""
    block, norm = module.blocks[0], module.fc_norm if isinstance(module.norm, nn.Identity) else module.norm
    kinds = [type(m).__name__ for m in (block, block.mlp.act, norm)]
    return block.attn.num_heads, norm.eps, module.global_pool, *kinds


def reread(name: str) -> str:
    """A registered model from its own tensors alone: what became of it."""
    with torch.device("meta"):
        module: Any = timm.create_model(name, num_classes=0, weight_init="skip")
    mapped = map_keys(module.state_dict(), vit.VIT.canonical)
    spec = ModelSpec("x.pth")
    vit.fuse_qkv(mapped)
    vit.fold_positions(mapped)
    try:
        found = build_empty(vit.infer(mapped, spec, False))
    except UserError:
        return "asked"
    except LookupError:
        return "refused"
    coverage = cover(found.state_dict(), mapped)
    if coverage.missing or coverage.unexpected:
        return "refused"
    assert computes(found) == computes(module), name
    return "read"


@pytest.mark.parametrize("name", QUICK)
def test_registered_models_are_read_as_built_or_asked_for(name):
    asked = ("vit_base_patch16_gap_224", "vit_base_patch16_rpn_224", "vit_base_patch16_clip_quickgelu_224")
    expected = "asked" if name in asked else "refused" if name.startswith("aimv2") else "read"
    assert reread(name) == expected


@pytest.mark.slow
def test_no_registered_model_is_read_as_another(monkeypatch):
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)  # there are no values here
    names = timm.list_models(module="vision_transformer") + timm.list_models(module="deit")
    results = [reread(name) for name in names]
    assert results.count("read") > 100, results


def test_the_name_asked_for_decides_the_activation(tmp_path):
    """Of two models with the same tensors."""
    models: dict[str, Any] = {}
    for arch in ("vit_base_patch32_clip_quickgelu_224", "vit_base_patch32_clip_224"):
        models[arch] = timm.create_model(arch, num_classes=0, img_size=64, weight_init="skip").eval()
    one, other = models.values()
    for drawn in (one.pos_embed, one.cls_token):  # whatever lay in the memory is in those that nothing initialises
        nn.init.normal_(drawn, generator=torch.Generator().manual_seed(0))
    other.load_state_dict(one.state_dict())
    path = save(one.state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: is a CLIP tower .* give --arch"):
        load_backbone(path)
    plain = "vit_base_patch32_224"  # without the norm before the first block
    with pytest.raises(UserError, match=f"not --arch {plain}"):
        load_backbone(path, arch=plain)
    features = []
    for arch, model in models.items():
        with torch.no_grad():
            wanted = model.forward_head(model.forward_features(X), pre_logits=True)
        backbone = load_backbone(path, arch=arch)
        features.append(backbone.features(X))
        torch.testing.assert_close(features[-1], wanted, atol=1e-4, rtol=1e-4)
        assert backbone.cls_attention(X).shape == (2, 12, 4)
    assert (features[0] - features[1]).abs().max() > 0.01


def test_a_distilled_model_gives_one_token_where_it_is_asked_for(tmp_path):
    written = timm_vit(distilled=True)(tmp_path)
    cls = load_backbone(written.path, heads=4, pool="cls")
    both = load_backbone(written.path, heads=4)
    assert both.pool == "cls&dist" and not torch.allclose(cls.features(X), both.features(X))
    assert cls.info.weights_digest != both.info.weights_digest
    assert both.cls_attention(X).shape == (2, 4, 16)


def test_without_a_cls_token_its_attention_does_not_apply(tmp_path):
    written = timm_vit(class_token=False, global_pool="avg", fc_norm=False)(tmp_path)
    backbone = load_backbone(written.path, heads=4)
    assert "attention" not in backbone.capabilities
    with pytest.raises(UnsupportedCapability, match=r"not applicable.*has no CLS token"):
        backbone.cls_attention(X)
    with pytest.raises(UserError, match="no CLS token for --pool cls"):
        load_backbone(written.path, heads=4, pool="cls")


def test_a_tower_that_pools_otherwise_is_refused(tmp_path):
    clip_tower(told={})(tmp_path)
    file = tmp_path / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["vision_cfg"]["pool_type"] = "last"
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="pools by 'last'"):
        load_backbone(tmp_path / "open_clip_pytorch_model.bin")
