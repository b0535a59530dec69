"""Heads on a backbone, and the teacher that starts as its student."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dinobench.pretrain.heads import PredictingNetwork, mlp, momentum_teacher
from dinobench.pretrain.method import update_ema


def kinds(module):
    return [type(m).__name__ for m in module]


def test_mlp_layers():
    assert kinds(mlp((4, 8, 2))) == ["Linear", "SyncedBatchNorm", "ReLU", "Linear"]
    assert kinds(mlp((4, 8, 2), norm=False)) == ["Linear", "ReLU", "Linear"]
    assert kinds(mlp((4, 8, 8, 2), last_norm="plain"))[-3:] == ["ReLU", "Linear", "SyncedBatchNorm"]
    assert kinds(mlp((4, 2))) == ["Linear"]
    assert [m.bias is None for m in mlp((4, 8, 2)) if isinstance(m, nn.Linear)] == [True, True]
    assert [m.bias is None for m in mlp((4, 8, 2), norm=False) if isinstance(m, nn.Linear)] == [False, False]
    plain, scaled = (mlp((4, 2), last_norm=kind)[-1] for kind in ("plain", "scaled"))
    assert plain.weight is None and plain.bias is None and scaled.weight.tolist() == [1, 1] and scaled.bias is None
    assert mlp((4, 8, 2))(torch.randn(5, 4)).shape == (5, 2)


def test_a_momentum_teacher_starts_as_the_student_and_learns_nothing():
    def backbone(drop_path):
        return nn.Sequential(nn.Linear(6, 4), nn.Dropout(drop_path))

    student = PredictingNetwork(backbone(0.5), mlp((4, 8, 2)), mlp((2, 8, 2)))
    teacher = momentum_teacher(student, backbone, mlp((4, 8, 2)))
    learning = dict(student.named_parameters())
    assert all(torch.equal(p, learning[n]) and p is not learning[n] for n, p in teacher.named_parameters())
    assert not any(p.requires_grad for p in teacher.parameters()) and teacher.backbone[1].p == 0
    assert len(dict(teacher.named_parameters())) < len(learning)  # no predictor

    before = copy.deepcopy(teacher)
    for p in student.parameters():
        nn.init.normal_(p)
    update_ema(teacher, student, 0.9, buffers=False)
    for (name, now), was in zip(teacher.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(now, 0.9 * was + 0.1 * learning[name].detach())
