from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from dinobench.models.loading import load_backbone
from dinobench.training.optim import Classifier, finetune_parameter_groups


def grouped(groups, names):
    """{parameter name: (lr_scale, weight decay)}"""
    return {names[id(p)]: (g.get("lr_scale", 1.0), g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "resnet18", "convnext_atto"])
def test_parameter_groups_are_those_of_timm_s_model_with_its_own_head(name):
    theirs = timm.create_model(name, num_classes=7)
    model = Classifier(load_backbone(f"random:{name}"), 7, 0.02, seed=0)
    names = {id(p): n for n, p in model.module.named_parameters()}
    names |= {id(p): f"head.{n}" for n, p in model.head.named_parameters()}
    exempt = {"pos_embed", "cls_token", "reg_token"}
    for decay in (1.0, 0.7):
        ours = grouped(finetune_parameter_groups(model, 0.05, decay), names)
        expected = (
            param_groups_weight_decay(theirs, 0.05, no_weight_decay_list=exempt)
            if decay == 1
            else param_groups_layer_decay(theirs, 0.05, no_weight_decay_list=exempt, layer_decay=decay)
        )
        found = grouped(expected, {id(p): n for n, p in theirs.named_parameters()})
        found = {n.replace("fc.", "head.") if n.startswith("fc.") else n: g for n, g in found.items()}
        found = {n.replace("head.fc.", "head."): g for n, g in found.items()}
        assert ours == {n: pytest.approx(g) for n, g in found.items()}


def test_head_is_a_truncated_normal_of_the_seed():
    weights = [Classifier(load_backbone("pixels:8"), 50, 0.5, seed).head.weight.detach() for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].abs().max() <= 1
    assert float(weights[0].std()) == pytest.approx(0.44, abs=0.01)  # 0.88 of the uncut normal's
