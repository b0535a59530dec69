"""Collectives over the processes that train together, with and without gradients, and gradients averaged over them.

And which of them does what, where the work is not images.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

#: Bytes of gradients that are summed at once while backward goes on, as in torch's DistributedDataParallel.
BUCKET = 25 << 20
#: How much longer than evenly shared work may take, where that keeps together what is computed together.
UNEVEN = 1.25


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
def gather_rows(x: torch.Tensor, lengths: Sequence[int] | None = None) -> torch.Tensor:
    """(n, ...) of every process, n its own -> all of them by rank, on the device they are on; of any type.

    They go as bytes, since not every backend knows every type, and filled up to the longest. Where every n is known,
    `lengths` by rank, the device is not waited for.
    """
    if processes() == 1:
        return x
    if lengths is None:
        counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(processes())]
        dist.all_gather(counts, torch.full((1,), len(x), dtype=torch.int64, device=x.device))
        lengths = torch.cat(counts).tolist()
    sent = x.new_zeros(max(lengths), *x.shape[1:])
    sent[: len(x)] = x
    parts = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather([p.flatten().view(torch.uint8) for p in parts], sent.flatten().view(torch.uint8))
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def owners(costs: Sequence[int], kinds: Sequence[Hashable], processes: int) -> np.ndarray:
    """Which process does each of n pieces of work (n,); those of one kind stand together and are computed together.

    A kind stays whole, so that its numbers are those of one process to the bit, unless that takes `UNEVEN` times as
    long as dividing it: then every process has pieces that follow each other. Whole kinds go, the costliest first, to
    the process that has least to do.

    >>> owners([1, 1, 3, 3, 4, 4], "aabbcc", 2)
    array([1, 1, 1, 1, 0, 0])
    >>> owners([1, 1, 3, 3, 4, 4], "aabbcc", 4)
    array([0, 0, 0, 1, 2, 3])
    """
    cost, of_kind = np.asarray(costs), {kind: np.array([k == kind for k in kinds]) for kind in kinds}
    whole, load = np.zeros(len(cost), np.int64), np.zeros(processes, np.int64)
    for mask in sorted(of_kind.values(), key=lambda mask: -int(cost[mask].sum())):
        whole[mask] = process = int(load.argmin())
        load[process] += cost[mask].sum()
    divided = (2 * cost.cumsum() - cost) * processes // (2 * cost.sum())  # where each piece's middle falls
    longest = np.bincount(divided, cost).max()
    return whole if load.max() <= UNEVEN * longest else divided


class EarlySums:
    """Sums of gradients over the processes that begin while the backward pass is still at earlier layers.

    Parameters stand in buckets of about `bucket` bytes, the last ones first, in the order in which gradients come. All
    processes begin the sums of the same buckets in the same order, whatever they have to add: a bucket waits for those
    before it, and `finish` begins what backward did not, as where a process had no images.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], processes: int, bucket: int = BUCKET) -> None:
        self._buckets = _buckets(parameters, bucket) if processes > 1 else []
        self._place = {p: i for i, members in enumerate(self._buckets) for p in members}
        self._lacking: list[int] = []
        self._begun: list[tuple[Any, torch.Tensor, list[torch.Tensor]]] = []
        for parameter in self._place:
            parameter.register_post_accumulate_grad_hook(self._came)

    @contextmanager
    def during(self, last: bool = True) -> Iterator[None]:
        """Around a backward pass; sums begin in the `last` one of a step, when gradients are whole."""
        self._lacking = [len(members) for members in self._buckets] if last else []
        try:
            yield
        finally:
            self._lacking = []

    def _came(self, parameter: torch.Tensor) -> None:
        if self._lacking:
            self._lacking[self._place[parameter]] -= 1  # type: ignore[index]
            while len(self._begun) < len(self._buckets) and not self._lacking[len(self._begun)]:
                self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        gradients = [p.grad for p in self._buckets[len(self._begun)] if p.grad is not None]
        flat = torch.cat([g.flatten().float() for g in gradients]) if gradients else torch.zeros(0)
        work = dist.all_reduce(flat, async_op=True) if gradients else None  # of none here, none is anywhere
        self._begun.append((work, flat, gradients))

    @torch.no_grad()
    def finish(self) -> None:
        """Every gradient is its sum over the processes. All processes come here once a step, with the same ones."""
        while len(self._begun) < len(self._buckets):
            self._begin()
        for work, flat, gradients in self._begun:
            if work is not None:
                work.wait()
                _put_back(flat, gradients)
        self._begun = []


def _buckets(parameters: Sequence[nn.Parameter], bucket: int) -> list[list[nn.Parameter]]:
    """The parameters from the last to the first, in runs of `bucket` bytes of float32 or one parameter."""
    found: list[list[nn.Parameter]] = []
    size = bucket
    for parameter in reversed(parameters):
        if size >= bucket:
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += 4 * parameter.numel()
    return found


def sum_gradients(
    model: nn.Module, totals: torch.Tensor, processes: int, early: EarlySums | None = None
) -> torch.Tensor:
    """Add up gradients, in place, and `totals` over all processes; returns the sums of `totals`.

    Running statistics (batch norm's) are averaged, so that the processes' models stay one model. `early`: what sums
    the gradients of all trained parameters of the model, if backward has begun to.
    """
    if processes == 1:
        return totals
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        if p.grad is None:  # a process left without images in this step
            p.grad = torch.zeros_like(p)
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    if early is not None:
        early.finish()
    gradients = [] if early is not None else [p.grad for p in parameters if p.grad is not None]
    summed = sum_in_place(gradients + buffers, totals)
    for buffer in buffers:
        buffer.div_(processes)
    return summed


@torch.no_grad()
def sum_in_place(tensors: Sequence[torch.Tensor], totals: torch.Tensor) -> torch.Tensor:
    """Replace `tensors` by their sums over all processes, in one all-reduce; returns the sums of `totals` (n,)."""
    flat = torch.cat([totals, *(t.flatten().float() for t in tensors)])
    torch.distributed.all_reduce(flat)
    _put_back(flat[len(totals) :], tensors)
    return flat[: len(totals)]


def _put_back(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    """The numbers that were joined, where they came from."""
    if tensors:
        parts = flat.split([t.numel() for t in tensors])
        torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])


def average_over_processes(
    parameters: Sequence[nn.Parameter], totals: torch.Tensor, processes: int, early: EarlySums | None = None
) -> torch.Tensor:
    """Replace gradients by their mean over the processes; returns the sums of `totals`.

    A parameter that has no gradient here has none anywhere. `early`: what sums them, if backward has begun to; else
    they go in one all-reduce.
    """
    if processes == 1:
        return totals
    if early is not None:
        early.finish()
    gradients = [p.grad for p in parameters if p.grad is not None]
    summed = sum_in_place([] if early is not None else gradients, totals)
    torch._foreach_div_(gradients, processes)
    return summed
