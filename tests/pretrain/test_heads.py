"""Heads, synced batch norm and gathering: in one process torch's own, in two what one process gives on the whole."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.multiprocessing as mp
from helpers.synced import network, objective, together
from torch import nn

from dinobench import distributed
from dinobench.pretrain import heads, sync_batch_norm
from dinobench.pretrain.heads import PredictingNetwork, mlp, momentum_teacher
from dinobench.pretrain.losses import info_nce_in_batch
from dinobench.pretrain.method import update_ema
from dinobench.pretrain.sync_batch_norm import SyncedBatchNorm


def kinds(module):
    return [type(m).__name__ for m in module]


def test_mlp_layers():
    assert kinds(mlp((4, 8, 2))) == ["Linear", "SyncedBatchNorm", "ReLU", "Linear"]
    assert kinds(mlp((4, 8, 2), norm=False)) == ["Linear", "ReLU", "Linear"]
    assert kinds(mlp((4, 8, 8, 2), last_norm="plain"))[-3:] == ["ReLU", "Linear", "SyncedBatchNorm"]
    assert kinds(mlp((4, 2))) == ["Linear"]
    assert [m.bias is None for m in mlp((4, 8, 2)) if isinstance(m, nn.Linear)] == [True, True]
    assert [m.bias is None for m in mlp((4, 8, 2), norm=False) if isinstance(m, nn.Linear)] == [False, False]
    assert mlp((4, 2), last_norm="plain")[-1].weight is None and mlp((4, 2), last_norm="affine")[-1].weight is not None
    assert mlp((4, 8, 2))(torch.randn(5, 4)).shape == (5, 2)


@pytest.mark.parametrize("shape", [(12, 5), (6, 5, 3, 2)])
def test_synced_batch_norm_is_torchs_in_one_process(shape):
    torch.manual_seed(0)
    ours, theirs = SyncedBatchNorm(5), (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5)
    for x in torch.randn(3, *shape):
        assert torch.equal(ours(x), theirs(x))
    assert {n: t.tolist() for n, t in ours.state_dict().items()} == {
        n: t.tolist() for n, t in theirs.state_dict().items()
    }
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_sums_over_processes_are_right_in_one(momentum, monkeypatch):
    """The arithmetic alone: gradients and running statistics against nn.BatchNorm2d, without any process group."""
    monkeypatch.setattr(heads, "all_reduce", lambda x: x)
    torch.manual_seed(0)
    ours, theirs = SyncedBatchNorm(5, momentum=momentum).double(), nn.BatchNorm2d(5, momentum=momentum).double()
    weights = torch.randn(6, 5, 3, 2).double()
    for x in torch.randn(2, 6, 5, 3, 2).double():
        a, b = (x.clone().requires_grad_() for _ in range(2))
        (ours._over_processes(a) * weights).sum().backward()
        (theirs(b) * weights).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


def test_contrast_prefers_its_own_keys():
    torch.manual_seed(0)
    q, k = torch.randn(6, 4), torch.randn(9, 4)
    loss, right = info_nce_in_batch(q, k, 0.3)
    expected, hits = 0.0, 0
    for i in range(6):
        cosines = [float(torch.dot(q[i], key) / q[i].norm() / key.norm()) / 0.3 for key in k]
        expected += torch.tensor(cosines).logsumexp(0).item() - cosines[i]
        hits += max(cosines) == cosines[i]
    assert loss.item() == pytest.approx(expected / 6, rel=1e-5) and right.item() == pytest.approx(hits / 6)


def test_contrast_is_float32_under_autocast():
    q, k = torch.randn(4, 8), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = info_nce_in_batch(q, k, 0.1)[0]
    assert found.dtype == torch.float32 and torch.equal(found, info_nce_in_batch(q, k, 0.1)[0])


def test_a_momentum_teacher_starts_as_the_student_and_learns_nothing():
    def backbone(drop_path):
        return nn.Sequential(nn.Linear(6, 4), nn.Dropout(drop_path))

    student = PredictingNetwork(backbone(0.5), mlp((4, 8, 2)), mlp((2, 8, 2)))
    teacher = momentum_teacher(student, backbone, mlp((4, 8, 2)))
    theirs = dict(student.named_parameters())
    assert all(torch.equal(p, theirs[n]) and p is not theirs[n] for n, p in teacher.named_parameters())
    assert not any(p.requires_grad for p in teacher.parameters()) and teacher.backbone[1].p == 0
    assert len(dict(teacher.named_parameters())) < len(theirs)  # no predictor

    before = copy.deepcopy(teacher)
    for p in student.parameters():
        nn.init.normal_(p)
    update_ema(teacher, student, 0.9, buffers=False)
    for (name, now), was in zip(teacher.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(now, 0.9 * was + 0.1 * theirs[name].detach())


def test_nothing_is_synced_in_one_process():
    module = nn.Sequential(nn.BatchNorm2d(3))
    assert sync_batch_norm.sync_batch_norms(module) is module and type(module[0]) is nn.BatchNorm2d
    x = torch.ones(2, requires_grad=True)
    assert distributed.gather_with_gradient(x) is x and not distributed.gather(x).requires_grad


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    x = torch.randn(3, 10, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    torch.save(x, tmp_path / "x.pt")
    mp.spawn(together, (tmp_path,), nprocs=2)
    module = network()
    for step in x:
        y = module(step)
        loss = objective(y, y)
        module.zero_grad()
        loss.backward()
    gradients = [p.grad for p in module.parameters()]
    expected = loss.detach(), gradients, module.state_dict(), module.eval()(x[0]).detach(), y.detach()
    for rank in range(2):
        *found, names = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(tuple(found), expected)
        assert names == list(module.state_dict())
