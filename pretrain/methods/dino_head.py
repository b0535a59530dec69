"""DINO's projection head, under the names of the released checkpoints.

Caron et al. 2021 (arXiv 2104.14294), appendix C; facebookresearch/dino, `DINOHead`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

#: Deviation of the truncated normal that weights are drawn from (facebookresearch/dino).
STD = 0.02


class WeightNormLinear(nn.Module):
    """x W^T with row i of W = g_i v_i / |v_i| (Salimans and Kingma 2016, arXiv 1602.07868), without bias.

    The directions start as torch's Linear does, the gains at 1: they stay there unless `trained_gain`.
    """

    def __init__(self, inputs: int, outputs: int, trained_gain: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=trained_gain)
        self.weight_v = nn.Parameter(nn.Linear(inputs, outputs, bias=False).weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs) -> (B, outputs)"""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class DinoHead(nn.Module):
    """(B, D) -> (B, K): an MLP down to a bottleneck, L2, and the weight-normalised last layer.

    `layers` counts the MLP's linear layers. `norm` makes a batch norm of a width, None for the batch-norm-free head of
    ViTs. `predictor` puts one more MLP before L2, which a teacher's head does without.
    """

    def __init__(
        self,
        embed_dim: int,
        out_dim: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        layers: int = 3,
        norm: type[nn.Module] | None = None,
        norm_last_layer: bool = True,
        predictor: bool = False,
    ) -> None:
        super().__init__()
        widths = [embed_dim, *[hidden_dim] * (layers - 1), bottleneck_dim]
        parts: list[nn.Module] = []
        for layer, (a, b) in enumerate(pairwise(widths), 1):
            parts.append(nn.Linear(a, b))
            if layer < layers:
                parts += [norm(b)] if norm else []
                parts.append(nn.GELU())
        # one layer is called `mlp`, not `mlp.0`, in the released files
        self.mlp = nn.Sequential(*parts) if layers > 1 else parts[0]
        self.predictor = (
            nn.Sequential(nn.Linear(bottleneck_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, bottleneck_dim))
            if predictor
            else nn.Identity()
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, trained_gain=not norm_last_layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_layer(F.normalize(self.predictor(self.mlp(x)), dim=-1))
