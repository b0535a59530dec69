"""MoCo v3: its loss by hand, its heads, its frozen patch projection."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from helpers.methods import batch, convnet, fit, make, now, vit
from torch import nn


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


def test_mocov3_heads_of_vits_and_resnets():
    linear = {b: sum(isinstance(m, nn.Linear) for m in make("mocov3", b).student.head) for b in (vit, convnet)}
    assert linear == {vit: 3, convnet: 2}
