"""MoCo v3: its loss by hand, its heads, its frozen patch projection."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.methods import batch, convnet, fit, make, now, vit
from torch import nn

from dinobench.pretrain import optim
from dinobench.pretrain.method import StepInfo, update_ema
from dinobench.pretrain.methods.mocov3 import Config


def test_mocov3_is_symmetric_and_scaled():
    """2 T times the cross-entropies of both directions, as in algorithm 1 of the paper."""
    method = make("mocov3", temperature=0.3)
    views, _ = batch(8)
    output = method(views, None, now())
    with torch.no_grad():
        q = [F.normalize(method.student.predictor(method.student([v])[0]), dim=1) for v in views]
        k = [F.normalize(method.teacher([v])[0], dim=1) for v in views]
        each = [F.cross_entropy(q[i] @ k[1 - i].T / 0.3, torch.arange(8)) for i in (0, 1)]
    torch.testing.assert_close(output.loss.detach(), 2 * 0.3 * (each[0] + each[1]))


def test_mocov3_leaves_the_patch_projection_alone():
    method = make("mocov3")
    projection = method.student.backbone.patch_embed.proj
    bound = math.sqrt(6 / (3 * 8 * 8 + 64))
    assert 0.95 * bound < projection.weight.abs().max() <= bound and not projection.bias.any()
    before = projection.weight.clone()
    fit(method, 2, n=8)
    assert torch.equal(projection.weight, before) and not projection.weight.requires_grad
    assert torch.equal(method.teacher.backbone.patch_embed.proj.weight, before)
    learning = make("mocov3", freeze_patches=False).student.backbone.patch_embed.proj
    assert learning.weight.requires_grad


def test_mocov3_settings_are_the_release_s():
    """moco-v3, CONFIG.md and main_moco.py: warm-up, a cosine to 0, AdamW over all parameters alike."""
    config = Config(batch=4096, epochs=300)
    assert (config.lr, config.warmup_epochs, config.weight_decay, config.weight_decay_end) == (1.5e-4, 40, 0.1, 0.1)
    student = make("mocov3").student
    optimizer = optim.make_optimizer(student, config)
    for epoch in (0, 39, 40, 100, 299):
        optim.set_rates(optimizer, config, StepInfo(10 * epoch, epoch, 10, 300))
        rate = 2.4e-3 * (epoch / 40 if epoch < 40 else 0.5 * (1 + math.cos(math.pi * (epoch - 40) / 260)))
        groups = optimizer.param_groups
        assert [g["lr"] for g in groups] == pytest.approx([rate, rate], rel=0.003)  # DINO's warm-up ends a step sooner
        assert [g["weight_decay"] for g in groups] == [0.1, 0.1]
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in student.parameters())


def test_mocov3_teacher_follows_as_in_the_release():
    """There the teacher moves inside a step, by that step's momentum, before its keys: one step later than here."""
    method, total = make("mocov3", momentum=0.9), 4
    expected = copy.deepcopy(method.teacher)
    for step in range(total):
        momentum = 1 - 0.5 * (1 + math.cos(math.pi * step / total)) * (1 - 0.9)
        update_ema(expected, method.student, momentum, buffers=False)
        for ours, theirs in zip(method.teacher.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
        with torch.no_grad():
            for p in method.student.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        method.after_step(StepInfo(step, step // 2, 2, 2))
    for ours, theirs in zip(method.teacher.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_mocov3_heads_of_vits_and_resnets():
    linear = {b: sum(isinstance(m, nn.Linear) for m in make("mocov3", b).student.head) for b in (vit, convnet)}
    assert linear == {vit: 3, convnet: 2}
