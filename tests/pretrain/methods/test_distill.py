"""Distillation: what it refuses, what stays out of its checkpoints, and what its targets are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from helpers.methods import batch, fit, make, now, vit

from dinobench.errors import UserError
from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD, ModelInput
from dinobench.models.loading import load_backbone
from dinobench.pretrain.methods.dino_head import DinoHead
from dinobench.pretrain.methods.distill import Prototypes
from dinobench.pretrain.views import renormalised


def test_distillation_needs_a_teacher_that_fits():
    with pytest.raises(UserError, match="distill needs a teacher: give its checkpoint with --set teacher=FILE"):
        make("distill", teacher="")
    with pytest.raises(UserError, match=r"/no/such\.pth"):
        make("distill", teacher="/no/such.pth")
    with pytest.raises(UserError, match="patches of 14 pixels do not divide --image-size 16; use 14"):
        make("distill", teacher="random:vit_small_patch14_dinov2")


def test_distillation_keeps_its_teacher_out_of_the_checkpoint():
    method = make("distill")
    before = method._frozen.module.norm.weight.clone()
    assert not [n for n in method.state_dict() if not n.startswith(("student.", "centering."))]
    assert method.teacher is None
    fit(method, 2, n=8)
    assert torch.equal(method._frozen.module.norm.weight, before) and not method._frozen.module.training
    assert method.to(torch.float64)._frozen.module.norm.weight.dtype == torch.float64  # moves along


def test_distillation_of_a_dino_file_uses_its_head(tmp_path):
    torch.manual_seed(0)
    head = DinoHead(64, 48, hidden_dim=32, bottleneck_dim=16)
    tensors = {f"backbone.{n}": t for n, t in vit().state_dict().items()}
    tensors |= {f"head.{n}": t for n, t in head.state_dict().items()}
    path = tmp_path / "dino.pth"
    torch.save({"teacher": tensors}, path)
    method = make("distill", teacher=str(path))
    (view,), _ = batch(6, views=1)
    features = load_backbone(path).features(view)
    assert method.student.head.out_features == 48
    torch.testing.assert_close(method._outputs[0](features), head(features).detach())

    output = method([view], None, now())
    targets = (head(features) / 0.04).softmax(1).detach()
    logits = method.student([view])[0].detach()
    torch.testing.assert_close(output.loss.detach(), -(targets * logits.log_softmax(1)).sum(1).mean())
    split = output.stats["target_entropy"] + output.stats["kl"]
    torch.testing.assert_close(split, output.loss.detach())
    method.after_step(now())
    torch.testing.assert_close(method.centering.center, 0.1 * head(features).detach().mean(0, keepdim=True))

    del tensors["head.mlp.0.weight"]
    torch.save({"teacher": tensors}, path)
    with pytest.raises(UserError, match=r"dino.pth: its head under teacher.head. is not DINO's"):
        make("distill", teacher=str(path))


def test_prototypes_are_the_same_for_every_run():
    torch.manual_seed(1)
    one = Prototypes(8, 5)
    torch.manual_seed(2)
    assert torch.equal(one.directions, Prototypes(8, 5).directions)
    x = torch.randn(3, 8)
    torch.testing.assert_close(one(x), F.cosine_similarity(x[:, None], one.directions[None], dim=2))


def test_a_teacher_of_another_input_sees_its_own():
    method = make("distill")
    (view,), _ = batch(6, views=1)
    own = ModelInput((0.5, 0.5, 0.5), (0.5, 0.25, 0.5), "a test")
    pixels = view * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    want = (pixels - 0.5) / torch.tensor(own.std).view(3, 1, 1)
    torch.testing.assert_close(renormalised(view, own), want)
    assert renormalised(view, ModelInput()) is view
    seen = []
    method._frozen.info = dataclasses.replace(method._frozen.info, input=own)
    method._frozen.features = lambda x: (seen.append(x), type(method._frozen).features(method._frozen, x))[1]
    method([view], None, now())
    torch.testing.assert_close(seen[0], want)
