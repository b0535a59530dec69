"""DINO as a method: its views, its two networks, what a step moves, and its ablations."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from dinobench.errors import UserError
from dinobench.pretrain import run
from dinobench.pretrain.method import NetworkSpec, StepInfo
from dinobench.pretrain.methods.dino import Config, Dino
from dinobench.pretrain.methods.dino_loss import entropy


class Flat(nn.Module):
    """The smallest backbone: the mean colour, linearly."""

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.linear = nn.Linear(3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean(dim=(2, 3)))


def small(is_vit: bool = True, **changes: object) -> Dino:
    torch.manual_seed(0)
    config = dataclasses.replace(Config(out_dim=16, hidden_dim=12, bottleneck_dim=6, local_crops=2), **changes)
    return Dino(config, NetworkSpec(Flat, 8, 3, is_vit, 32))


def views(n: int = 4, local: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, s, s, generator=generator) for s in [16, 16] + [8] * local]


def now(step: int = 0, epoch: int = 0, epochs: int = 4) -> StepInfo:
    return StepInfo(step, epoch, 5, epochs)


def test_head_has_batch_norm_for_convnets_only_unless_asked():
    def norms(**options: object) -> bool:
        return any(isinstance(m, nn.BatchNorm1d | nn.SyncBatchNorm) for m in small(**options).student.head.modules())

    assert not norms() and norms(is_vit=False)
    assert norms(head_batch_norm=True) and not norms(is_vit=False, head_batch_norm=False)


def test_views_of_the_paper():
    first, second, local = Dino.views(Config(), 224)
    assert (first.count, first.size, first.scale, first.blur_p, first.solarize_p) == (1, 224, (0.4, 1.0), 1.0, 0.0)
    assert (second.blur_p, second.solarize_p) == (0.1, 0.2)
    assert (local.count, local.size, local.scale, local.blur_p, local.solarize_p) == (8, 96, (0.05, 0.4), 0.5, 0.0)
    for view in (first, second, local):
        assert (view.flip_p, view.jitter, view.jitter_p, view.grayscale_p) == (0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2)
        assert (view.blur_radius, view.ratio) == ((0.1, 2.0), (3 / 4, 4 / 3))
    assert len(Dino.views(Config(local_crops=0), 224)) == 2


def test_teacher_starts_as_the_student_without_gradients_or_stochastic_depth():
    dino = small(predictor=True)
    assert dino.student.backbone.drop_path == 0.1 and dino.teacher.backbone.drop_path == 0.0
    assert not any(p.requires_grad for p in dino.teacher.parameters())
    student = dino.student.state_dict()
    assert all(torch.equal(t, student[n]) for n, t in dino.teacher.state_dict().items())
    extra = set(student) - set(dino.teacher.state_dict())
    assert extra and all(n.startswith("head.predictor.") for n in extra)


def test_loss_splits_into_entropy_and_kl_and_gradients_reach_the_student_alone():
    dino = small()
    output = dino(views(), None, now())
    output.loss.backward()
    assert float(output.stats["teacher_entropy"] + output.stats["kl"]) == pytest.approx(float(output.loss.detach()))
    assert 0 <= float(output.stats["teacher_entropy"]) <= math.log(16) and output.stats["kl"] > 0
    assert {n: f.shape for n, f in output.features.items()} == {"student": (8, 8), "teacher": (8, 8)}
    trained = [p for p in dino.student.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in trained)
    assert all(p.grad is None for p in dino.teacher.parameters())


def test_after_a_step_center_and_teacher_move():
    dino = small(momentum=0.9)
    with torch.no_grad():
        for p in dino.student.parameters():
            p.add_(1.0)
    before = [p.clone() for p in dino.teacher.parameters()]
    dino(views(), None, now())
    assert not dino.centering.center.any()
    dino.after_step(now())
    assert dino.centering.center.any()
    for old, new in zip(before, dino.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert dino.logged(now()) == {"momentum": 0.9, "teacher_temperature": 0.04}
    last = dino.logged(now(step=19, epoch=3))["momentum"]
    assert last == pytest.approx(1 - 0.1 * (1 + math.cos(math.pi * 19 / 20)) / 2)


def test_a_teacher_without_momentum_is_the_student_of_this_step():
    dino = small(momentum_teacher=False)
    with torch.no_grad():
        for p in dino.student.parameters():
            p.mul_(3.0)
    dino.after_step(now())
    student = dino.student.state_dict()
    assert all(torch.equal(t, student[n]) for n, t in dino.teacher.state_dict().items())


def test_the_last_layer_is_frozen_in_the_first_epoch():
    dino = small(freeze_last_layer=2)
    for epoch, frozen in ((0, True), (1, True), (2, False)):
        dino.zero_grad()
        dino(views(), None, now(5 * epoch, epoch)).loss.backward()
        dino.before_step(now(5 * epoch, epoch))
        assert (dino.student.head.last_layer.weight_v.grad is None) == frozen
        assert dino.student.head.mlp[0].weight.grad is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "mse"}, {"centering": "off"}, {"centering": "sinkhorn"}, {"predictor": True}, {"sharpening": False},
        {"momentum_teacher": False, "local_crops": 0}, {"loss": "mse", "centering": "sinkhorn"},
    ],
    ids=str,
)  # fmt: skip
def test_ablations_train(changes):
    dino = small(lr=0.1, **changes)
    optimizer = torch.optim.SGD([p for p in dino.student.parameters() if p.requires_grad], 0.5)
    losses = []
    for step in range(5):
        output = dino(views(local=dino.config.local_crops), None, now(step))
        losses.append(float(output.loss.detach()))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        dino.after_step(now(step))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_without_centering_or_sharpening_the_targets_say_so():
    dino = small(centering="off")
    dino.centering.center.fill_(5.0)
    assert torch.equal(dino._center(torch.ones(1, 16)), torch.ones(1, 16))
    assert small(sharpening=False).logged(now())["teacher_temperature"] == 0.1
    assert float(entropy(torch.full((2, 3, 16), 1 / 16))) == pytest.approx(math.log(16))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"out_dim": "0"}, "out_dim must be at least 1"),
        ({"global_scale": "0.4"}, "global_scale needs 2 numbers, not 1"),
        ({"teacher_temperature": "0"}, "temperatures must be above 0"),
        ({"centering": "maybe"}, "unknown value of dino setting centering"),
        ({"outdim": "4"}, "did you mean 'out_dim'"),
        ({"batch": "0"}, "batch must be at least 1"),
    ],
)
def test_wrong_settings_are_named(setting, words):
    with pytest.raises(UserError, match=words):
        run.configure(Dino, setting)


def test_settings_as_typed():
    config = run.configure(Dino, {"momentum_teacher": "off", "local_size": "none", "blur_p": "0,0.5,1"})
    assert isinstance(config, Config)
    assert (config.momentum_teacher, config.local_size, config.blur_p) == (False, None, (0.0, 0.5, 1.0))
