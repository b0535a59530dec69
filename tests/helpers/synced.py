"""A network with batch norms, trained by each of two processes."""

from __future__ import annotations

import torch
from torch import nn

from dinobench import distributed
from dinobench.pretrain import sync_batch_norm
from dinobench.pretrain.heads import mlp
from dinobench.pretrain.sync_batch_norm import SyncedBatchNorm


def network():
    """A small ConvNet whose batch norms are torch's."""
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=False)
    return nn.Sequential(
        nn.Sequential(*parts), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), scaled()
    ).double()


def scaled():
    """A batch norm with a scale and no shift."""
    return mlp((4, 4), last_norm="scaled")[-1]


def objective(rows, all_rows):
    """The mean over a process's rows of something that ties each of them to all rows of all processes."""
    return (rows @ all_rows.T).logsumexp(1).mean()


def together(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    x = torch.load(folder / "x.pt")
    module = sync_batch_norm.sync_batch_norms(network())
    names = list(module.state_dict())
    assert [type(m) for m in module.modules() if "BatchNorm" in type(m).__name__] == [SyncedBatchNorm] * 4
    for step in x:
        y = module(step.chunk(2)[rank])
        loss = objective(y, distributed.gather_with_gradient(y))
        module.zero_grad()
        loss.backward()
    gradients = [p.grad for p in module.parameters()]
    for tensor in (*gradients, loss := loss.detach()):
        torch.distributed.all_reduce(tensor)
        tensor /= 2
    every = distributed.gather(y)
    torch.save((loss, gradients, module.state_dict(), module.eval()(x[0]), every, names), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
