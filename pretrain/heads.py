"""What methods put on a backbone and between processes: MLP heads, synced batch norm, momentum copies, gathering.

Processes have equally many images each (the loop sees to it), and gradients are averaged over them, so that a method
whose loss is a mean over its process's images gets what one process would on the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from dinobench.pretrain.method import Network


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if processes() > 1 else 0


class _Sum(torch.autograd.Function):
    """The sum over processes. Each process's input serves every process's output, whose gradients therefore add up."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, gradient)


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradients that they gave a process's rows add up there."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, gradient).chunk(processes())[rank()]


def all_reduce(x: torch.Tensor) -> torch.Tensor:
    """The sum over processes, with gradients."""
    return _Sum.apply(x)


def gather_with_gradient(x: torch.Tensor) -> torch.Tensor:
    """(B, ...) of every process -> (processes × B, ...), by rank. Gradients go back to the process that owns the rows.

    The same tensor in one process.
    """
    return _Gather.apply(x) if processes() > 1 else x


@torch.no_grad()
def gather(x: torch.Tensor) -> torch.Tensor:
    """As `gather_with_gradient`, without gradients."""
    if processes() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(processes())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


class SyncedBatchNorm(nn.SyncBatchNorm):
    """Batch norm (B, C, ...) over the images of all processes; nn.BatchNorm itself where there is one process.

    torch's own refuses CPU tensors, for which the means and variances are summed here.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or processes() == 1:
            return nn.modules.batchnorm._BatchNorm.forward(self, x)
        if x.device.type == "cuda":
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._over_processes(x if x.dtype == torch.float64 else x.float()).to(x.dtype)

    def _over_processes(self, x: torch.Tensor) -> torch.Tensor:
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = processes() * x.numel() // x.shape[1]
        # Two sums one after the other: the mean of squares less the square of the mean would lose digits.
        mean = all_reduce(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), step)
            self.running_var.lerp_(variance.detach() * count / max(count - 1, 1), step)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)


def sync_batch_norms(module: nn.Module) -> nn.Module:
    """The module with its batch norms synced over processes, same tensors and names; unchanged in one process."""
    if processes() == 1:
        return module
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        synced = SyncedBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        synced._parameters, synced._buffers, synced.training = module._parameters, module._buffers, module.training
        return synced
    for name, child in module.named_children():
        setattr(module, name, sync_batch_norms(child))
    return module


def mlp(dims: Sequence[int], norm: bool = True, last_norm: Literal["", "plain", "affine"] = "") -> nn.Sequential:
    """Linear layers (dims[0] -> dims[1] -> ...) with ReLU, and before it synced batch norm with `norm`, between them.

    `last_norm` puts a batch norm at the end, "affine" with a learned scale and shift. A linear layer that a norm
    follows, or the last of a head with norms, has no bias.
    """
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(dims):
        layers.append(nn.Linear(wide, narrow, bias=not norm))
        layers += [SyncedBatchNorm(narrow), nn.ReLU()] if norm else [nn.ReLU()]
    del layers[-2 if norm else -1 :]  # what would follow the last linear layer
    if last_norm:
        layers.append(SyncedBatchNorm(dims[-1], affine=last_norm == "affine"))
    return nn.Sequential(*layers)


class PredictingNetwork(Network):
    """A network with a predictor, which the method applies to the head's outputs; its teacher has none."""

    def __init__(self, backbone: nn.Module, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__(backbone, head)
        self.predictor = predictor


def momentum_teacher(student: Network, backbone: Callable[[float], nn.Module], head: nn.Module) -> Network:
    """A network that starts as the student's backbone and head, without gradients or stochastic depth.

    `backbone` and `head` are built as the student's were; their own start is overwritten.
    """
    teacher = Network(sync_batch_norms(backbone(0.0)), head)
    teacher.backbone.load_state_dict(student.backbone.state_dict())
    teacher.head.load_state_dict(student.head.state_dict())
    return teacher.requires_grad_(False)


def contrast(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE (arXiv 1807.03748, equation 4) of queries (B, d) against keys (n, d) of which those at
    rank × B + 0 .. B − 1 are theirs -> (loss, accuracy), scalars. Float32 whatever the precision around it.

    >>> contrast(torch.eye(2), torch.eye(2), 0.5)[0].item() == -torch.tensor([2.0, 0.0]).log_softmax(0)[0].item()
    True
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T / temperature
    wanted = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
    return F.cross_entropy(logits, wanted), accuracy(logits, wanted)


@torch.no_grad()
def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits (n, classes), labels (n,) -> the fraction whose largest logit is the label's."""
    return (logits.argmax(1) == labels).float().mean()
