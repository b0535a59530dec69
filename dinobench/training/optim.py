"""What a fine-tuning trains, in groups of parameters with rates of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn


class Classifier(nn.Module):
    """A backbone's features under a linear head, drawn from `seed`: N(0, `std`) cut off at two deviations, bias 0."""

    def __init__(self, backbone: Any, classes: int, std: float, seed: int) -> None:
        super().__init__()
        self.backbone = backbone  # not a module itself
        self.module = backbone.module
        self.head = nn.Linear(backbone.embed_dim, classes)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            nn.init.trunc_normal_(self.head.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, classes)"""
        return self.head(self.backbone.features(x))


class _AsTimm:
    """A Classifier under the names its parameters would have in a timm model with a head, for timm's grouping."""

    def __init__(self, model: Classifier) -> None:
        self._model = model
        if hasattr(model.module, "group_matcher"):
            self.group_matcher = model.module.group_matcher

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._model.module.named_parameters()
        for name, parameter in self._model.head.named_parameters():
            yield f"head.{name}", parameter


def finetune_parameter_groups(model: Classifier, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer, with `lr_scale` for timm's schedulers where `layer_decay` is below 1.

    No weight decay on biases, norms, tokens and positions, as in DeiT. Layer decay as in BEiT (arXiv 2106.08254): the
    head's rate is the full one, and each layer below has `layer_decay` times that of the one above.
    """
    listed: Any = getattr(model.module, "no_weight_decay", set)
    exempt = {*listed(), "pos_embed", "cls_token", "reg_token"}
    named: Any = _AsTimm(model)
    if layer_decay == 1:
        return param_groups_weight_decay(named, weight_decay, no_weight_decay_list=exempt)
    return param_groups_layer_decay(named, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay)
