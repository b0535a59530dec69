"""The optimizer's side of a step: groups, gradients over processes, clipping, rates.

Facts from the DINO paper (arXiv 2104.14294, section 3.2) and facebookresearch/dino, `utils.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dinobench.pretrain.method import MethodConfig, StepInfo, scheduled

#: Momentum of SGD.
MOMENTUM = 0.9
#: What is added to a norm before a gradient is divided by it.
CLIP_EPS = 1e-6


def dino_parameter_groups(student: nn.Module) -> list[dict[str, Any]]:
    """Two groups in the order of the names, as released checkpoints have them: with weight decay, and without.

    Without: biases and one-dimensional tensors (norms).
    """
    trained = [(n, p) for n, p in student.named_parameters() if p.requires_grad]
    free = [p.ndim == 1 or n.endswith(".bias") for n, p in trained]
    return [
        {"params": [p for (_, p), f in zip(trained, free, strict=True) if not f]},
        {"params": [p for (_, p), f in zip(trained, free, strict=True) if f], "weight_decay": 0.0},
    ]


def make_optimizer(student: nn.Module, config: MethodConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over `dino_parameter_groups`, in torch's fused form; rates are set at every step."""
    groups = [g for g in dino_parameter_groups(student) if g["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, weight_decay=config.weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over moments, of ours or of a released checkpoint, but not its choice of kernel.

    Raises ValueError when the groups or the shapes of the moments do not fit, KeyError and others for what is no state.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, torch.Tensor) and moment.ndim and moment.shape != parameter.shape:
                raise ValueError(f"{name} {tuple(moment.shape)} instead of {tuple(parameter.shape)}")
    for group in optimizer.param_groups:
        group.update(fused=True, foreach=None)


def learning_rate(config: MethodConfig, now: StepInfo) -> float:
    """In proportion to the batch, with warm-up and cosine."""
    return scheduled(now, config.lr * config.batch / 256, config.min_lr, config.warmup_epochs)


def weight_decay(config: MethodConfig, now: StepInfo) -> float:
    return scheduled(now, config.weight_decay, config.weight_decay_end)


def set_rates(optimizer: torch.optim.Optimizer, config: MethodConfig, now: StepInfo) -> None:
    """This step's learning rate, and weight decay where there is to be some."""
    lr, decay = learning_rate(config, now), weight_decay(config, now)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if config.decay_all or group["params"][0].ndim > 1:  # else the group without, of biases and norms
            group["weight_decay"] = decay


@torch.no_grad()
def clip_each(parameters: Sequence[nn.Parameter], largest: float) -> torch.Tensor:
    """Scale every gradient whose own norm is above `largest` down to it (0: none); returns the norm of all before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    if largest > 0:
        factors = (largest / (norms + CLIP_EPS)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms.norm()
