"""Synced batch norm: in one process torch's own, in two what one process gives on the whole."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from helpers.forked import two_processes
from helpers.synced import network, objective, together
from torch import nn

from dinobench import distributed
from dinobench.pretrain.sync_batch_norm import SyncedBatchNorm, sync_batch_norms


@pytest.fixture
def a_group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(12, 5), (6, 5, 3, 2)])
def test_synced_batch_norm_is_torchs_in_one_process(shape):
    torch.manual_seed(0)
    ours, expected_norm = SyncedBatchNorm(5), (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5)
    for x in torch.randn(3, *shape):
        assert torch.equal(ours(x), expected_norm(x))
    assert {n: t.tolist() for n, t in ours.state_dict().items()} == {
        n: t.tolist() for n, t in expected_norm.state_dict().items()
    }
    assert torch.equal(ours.eval()(x), expected_norm.eval()(x))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_sums_over_processes_are_right_in_one(momentum, a_group_of_one):
    """The arithmetic alone: gradients and running statistics against nn.BatchNorm2d, in a group of one process."""
    torch.manual_seed(0)
    ours, expected_norm = SyncedBatchNorm(5, momentum=momentum).double(), nn.BatchNorm2d(5, momentum=momentum).double()
    weights = torch.randn(6, 5, 3, 2).double()
    for x in torch.randn(2, 6, 5, 3, 2).double():
        a, b = (x.clone().requires_grad_() for _ in range(2))
        (ours._over_processes(a) * weights).sum().backward()
        (expected_norm(b) * weights).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.state_dict(), expected_norm.state_dict())
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in expected_norm.parameters()])


def test_nothing_is_synced_in_one_process():
    module = nn.Sequential(nn.BatchNorm2d(3))
    assert sync_batch_norms(module) is module and type(module[0]) is nn.BatchNorm2d
    x = torch.ones(2, requires_grad=True)
    assert distributed.gather_with_gradient(x) is x and not distributed.gather(x).requires_grad


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    x = torch.randn(3, 10, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    torch.save(x, tmp_path / "x.pt")
    two_processes(together, tmp_path)
    module = network()
    for step in x:
        y = module(step)
        loss = objective(y, y)
        module.zero_grad()
        loss.backward()
    gradients = [p.grad for p in module.parameters()]
    expected = loss.detach(), gradients, module.state_dict(), module.eval()(x[0]).detach(), y.detach()
    for rank in range(2):
        *results, names = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(tuple(results), expected)
        assert names == list(module.state_dict())
