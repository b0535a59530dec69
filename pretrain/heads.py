"""What methods put on a backbone and between processes: MLP heads, synced batch norm, momentum copies, gathering.

Processes have equally many images each (the loop sees to it), and gradients are averaged over them, so that a method
whose loss is a mean over its process's images gets what one process would on the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from dinobench.pretrain.method import Network
from dinobench.pretrain.sync_batch_norm import SyncedBatchNorm, sync_batch_norms


def mlp(dims: Sequence[int], norm: bool = True, last_norm: Literal["", "plain", "scaled"] = "") -> nn.Sequential:
    """Linear layers (dims[0] -> dims[1] -> ...) with ReLU, and before it synced batch norm with `norm`, between them.

    `last_norm` puts a batch norm at the end, "scaled" with a learned scale, without a shift in either case. A linear
    layer that a norm follows, or the last of a head with norms, has no bias.
    """
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(dims):
        layers.append(nn.Linear(wide, narrow, bias=not norm))
        layers += [SyncedBatchNorm(narrow), nn.ReLU()] if norm else [nn.ReLU()]
    del layers[-2 if norm else -1 :]  # what would follow the last linear layer
    if last_norm:
        layers.append(SyncedBatchNorm(dims[-1], affine=last_norm == "scaled"))
        layers[-1].register_parameter("bias", None)
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
