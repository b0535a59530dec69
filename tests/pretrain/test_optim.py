"""The optimizer's side of a step: groups, rates, clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dinobench.pretrain import backbones, optim
from dinobench.pretrain.method import NetworkSpec, StepInfo
from dinobench.pretrain.methods.dino import Config, Dino


def test_weight_decay_groups():
    student = Dino(
        Config(out_dim=8, hidden_dim=4, bottleneck_dim=4),
        NetworkSpec(backbones.choose("vit_tiny", 16, 8, 1).build, 192, 10, True, 16),
    ).student
    decayed, free = (g["params"] for g in optim.dino_parameter_groups(student))
    names = {id(p): n for n, p in student.named_parameters()}
    for parameter in free:
        assert names[id(parameter)].endswith("bias") or "norm" in names[id(parameter)]
    assert {"backbone.cls_token", "backbone.pos_embed", "head.last_layer.weight_v"} <= {names[id(p)] for p in decayed}
    assert len(decayed) + len(free) == len(names) - 1  # the gains, which do not learn
    optimizer = optim.make_optimizer(student, Config())
    optim.set_rates(optimizer, Config(batch=512, warmup_epochs=1), StepInfo(5, 1, 5, 10))
    assert [g["lr"] for g in optimizer.param_groups] == [1e-3, 1e-3]
    assert optimizer.param_groups[0]["weight_decay"] > 0.04 and optimizer.param_groups[1]["weight_decay"] == 0
    optim.set_rates(optimizer, Config(batch=512, warmup_epochs=1, decay_all=True), StepInfo(5, 1, 5, 10))
    assert optimizer.param_groups[0]["weight_decay"] == optimizer.param_groups[1]["weight_decay"] > 0.04


def test_each_gradient_is_clipped_by_itself():
    parameters = [nn.Parameter(torch.zeros(4)) for _ in range(3)]
    for parameter, size in zip(parameters, (0.5, 3.0, 100.0), strict=True):
        parameter.grad = torch.full((4,), size)
    parameters.append(nn.Parameter(torch.zeros(1)))  # without a gradient
    norm = optim.clip_each(parameters, 3.0)
    assert [float(p.grad.norm()) for p in parameters[:3]] == pytest.approx([1.0, 3.0, 3.0], rel=1e-5)
    assert float(norm) == pytest.approx((1 + 36 + 40000) ** 0.5)
    optim.clip_each(parameters, 0.0)
    assert float(parameters[2].grad.norm()) == pytest.approx(3.0, rel=1e-5)
