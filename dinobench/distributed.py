"""Collectives over the processes that train together, with and without gradients, and gradients averaged over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


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


@torch.no_grad()
def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """(n, ...) of every process, n its own -> all of them by rank, on the device they are on; of any type.

    They go as bytes, since not every backend knows every type, and filled up to the longest.
    """
    if processes() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(processes())]
    dist.all_gather(counts, torch.full((1,), len(x), dtype=torch.int64, device=x.device))
    lengths = torch.cat(counts).tolist()
    sent = x.new_zeros(max(lengths), *x.shape[1:])
    sent[: len(x)] = x
    parts = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather([p.flatten().view(torch.uint8) for p in parts], sent.flatten().view(torch.uint8))
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


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


def average_over_processes(parameters: Sequence[nn.Parameter], totals: torch.Tensor, processes: int) -> torch.Tensor:
    """Replace gradients by their mean over the processes, in one all-reduce; returns the sums of `totals`.

    A parameter that has no gradient here has none anywhere.
    """
    if processes == 1:
        return totals
    gradients = [p.grad for p in parameters if p.grad is not None]
    summed = sum_in_place(gradients, totals)
    torch._foreach_div_(gradients, processes)
    return summed
