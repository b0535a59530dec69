"""Parts of a training that can be interrupted and spread over processes without its numbers changing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from dinobench.errors import UserError
from dinobench.training.resume import load_state, save_state
from dinobench.training.sampler import Order
from dinobench.types import Context

#: Work that an interruption may cost.
SAVE_SECONDS = 60.0


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


@dataclass
class RepeatedOrder(Order):
    """Full batches, the images that are left at an epoch's end being left out; fewer images than a batch are one.

    Each image comes `repeats` times running, augmented anew each time, and an epoch has n images still (Hoffer et al.
    2019, arXiv 1901.09335; repeated augmentation in DeiT, arXiv 2012.12877).
    """

    repeats: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.n // self.batch)

    def __call__(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a step, and for each a number that no other view of that image has."""
        at = np.arange(step * self.batch, min((step + 1) * self.batch, self.n))
        return self._permutation(epoch)[at // self.repeats], epoch * self.repeats + at % self.repeats


def in_pairs(n: int) -> np.ndarray:
    """An order of 0..n-1 in which first and last, second and last but one, ... are neighbours, to be mixed.

    Neighbours stay together in any part of even length, so that mixing does not depend on how a step is cut up.

    >>> in_pairs(5).tolist()
    [0, 4, 1, 3, 2]
    """
    both = np.stack([np.arange(n), np.arange(n)[::-1]], axis=1).ravel()
    return both[:n]


def share_in_pairs(ctx: Context, n: int) -> slice:
    """`ctx.share` in which neighbours 2i and 2i + 1 stay together."""
    pairs = ctx.share(-(-n // 2))
    return slice(min(2 * pairs.start, n), min(2 * pairs.stop, n))


def sum_gradients(model: nn.Module, totals: torch.Tensor, processes: int) -> torch.Tensor:
    """Add up gradients, in place, and `totals` over all processes; returns the sums of `totals`.

    Running statistics (batch norm's) are averaged, so that the processes' models stay one model.
    """
    if processes == 1:
        return totals
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        if p.grad is None:  # a process left without images in this step
            p.grad = torch.zeros_like(p)
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    summed = sum_in_place([p.grad for p in parameters if p.grad is not None] + buffers, totals)
    for buffer in buffers:
        buffer.div_(processes)
    return summed


@torch.no_grad()
def sum_in_place(tensors: Sequence[torch.Tensor], totals: torch.Tensor) -> torch.Tensor:
    """Replace `tensors` by their sums over all processes, in one all-reduce; returns the sums of `totals` (n,)."""
    flat = torch.cat([totals, *(t.flatten().float() for t in tensors)])
    torch.distributed.all_reduce(flat)
    parts = flat[len(totals) :].split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])
    return flat[: len(totals)]


def agree(ctx: Context, error: UserError | None) -> None:
    """Raise on all processes when one of them met an error: alone, it would leave the others waiting for it."""
    failed = bool(ctx.gather(torch.tensor([error is not None])).any()) if ctx.processes > 1 else error is not None
    if failed:
        raise error or UserError("another process met an error, which its own message names")


@contextmanager
def own_randomness(device: torch.device, *numbers: int) -> Iterator[None]:
    """What a model itself draws (dropout) comes from `numbers` inside, and leaves no trace outside."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class TrainingState:
    """The state of a training in a file, written at most every `SAVE_SECONDS` unless asked otherwise."""

    def __init__(self, path: Path, ctx: Context) -> None:
        self.path, self.ctx = path, ctx
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        return self.ctx.rank == 0 and time.monotonic() - self._saved >= SAVE_SECONDS

    def save(self, state: dict[str, Any]) -> None:
        """Written by the first process; the others hold the same."""
        if self.ctx.rank == 0:
            save_state(self.path, state)
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved, or None; from the beginning too when not all processes find the same, as `step` tells."""
        state = load_state(self.path)
        if self.ctx.processes > 1:
            steps = self.ctx.gather(torch.tensor([state["step"] if state else 0]))
            if steps.min() != steps.max():
                return None
        return state
