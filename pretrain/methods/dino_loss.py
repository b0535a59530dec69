"""DINO's loss: a sharpened and centred teacher is what every other view of the student has to predict.

Caron et al. 2021 (arXiv 2104.14294), algorithm 1 and section 3; facebookresearch/dino, `main_dino.py`. The variants
are those of the paper's Table 7.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn import functional as F

from dinobench.distributed import processes

#: Rounds of Sinkhorn-Knopp (arXiv 2006.09882, section 4).
SINKHORN_ITERATIONS = 3


def teacher_temperature(epoch: int, warmup: float, final: float, warmup_epochs: int) -> float:
    """Linear from `warmup` to `final`, reached in the last of the warm-up epochs; then `final`.

    >>> [round(teacher_temperature(e, 0.04, 0.07, 4), 2) for e in range(5)]
    [0.04, 0.05, 0.06, 0.07, 0.07]
    """
    if epoch >= warmup_epochs:
        return final
    return warmup + (final - warmup) * epoch / max(warmup_epochs - 1, 1)


def cross_entropy(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean over images and all pairs of different views: targets (T, B, K) that sum to 1, logits (V, B, K) -> scalar.

    Teacher view t is the student's view t. From -log softmax(s) = logsumexp(s) - s only three passes over K remain
    instead of one for each pair, and no log-probabilities are kept.
    """
    teachers, students = len(targets), len(logits)
    pairs = teachers * students - min(teachers, students)
    times = torch.full((students, 1), float(teachers), device=logits.device)
    times[:teachers] -= 1  # a view does not predict itself
    normalisers = (torch.logsumexp(logits, dim=-1) * times).sum(dim=0)  # (B,)
    every = (targets.sum(dim=0) * logits.sum(dim=0)).sum(dim=-1)
    same = (targets[:students] * logits[:teachers]).sum(dim=(0, 2))
    return (normalisers - every + same).mean() / pairs


def squared_error(targets: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """2 - 2 cos over all pairs of different views, as BYOL compares them: (T, B, K), (V, B, K) -> scalar."""
    targets, outputs = F.normalize(targets, dim=-1), F.normalize(outputs, dim=-1)
    teachers, students = len(targets), len(outputs)
    every = (targets.sum(dim=0) * outputs.sum(dim=0)).sum(dim=-1)
    same = (targets[:students] * outputs[:teachers]).sum(dim=(0, 2))
    pairs = teachers * students - min(teachers, students)
    return 2 - 2 * (every - same).mean() / pairs


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """(..., K) -> the mean entropy in nats."""
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1).mean()


@torch.no_grad()
def sinkhorn(logits: torch.Tensor, iterations: int = SINKHORN_ITERATIONS) -> torch.Tensor:
    """Assignments (B, K) -> (B, K) whose rows sum to 1 and whose columns are equally used, over all processes.

    Sinkhorn-Knopp as in SwAV (arXiv 2006.09882), in logarithms so that no temperature overflows.
    """
    q = logits.float()
    for _ in range(iterations):
        q = q - _logsumexp_over_images(q)
        q = q - torch.logsumexp(q, dim=1, keepdim=True)
    return q.exp()


def _logsumexp_over_images(q: torch.Tensor) -> torch.Tensor:
    """(B, K) -> (1, K) over the images of all processes."""
    if processes() == 1:
        return torch.logsumexp(q, dim=0, keepdim=True)
    top = q.amax(dim=0, keepdim=True)
    dist.all_reduce(top, dist.ReduceOp.MAX)
    total = (q - top).exp().sum(dim=0, keepdim=True)
    dist.all_reduce(total)
    return top + total.log()


class Center(torch.nn.Module):
    """The running mean of the teacher's outputs over the batches of all processes.

    What the forward passes of one step see is collected by `add` and taken over by `update`, so that a step cut into
    parts ends with the centre of a whole one.
    """

    center: torch.Tensor
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, out_dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(1, out_dim))
        self.register_buffer("total", torch.zeros(1, out_dim), persistent=False)
        self.register_buffer("count", torch.zeros(1), persistent=False)

    @torch.no_grad()
    def add(self, outputs: torch.Tensor) -> None:
        """Teacher outputs (n, K)."""
        self.total += outputs.sum(dim=0, keepdim=True)
        self.count += len(outputs)

    @torch.no_grad()
    def update(self) -> None:
        """center ← momentum × center + (1 − momentum) × mean; the same on every process."""
        if processes() > 1:
            both = torch.cat([self.total[0], self.count])
            dist.all_reduce(both)
            self.total.copy_(both[None, :-1])
            self.count.copy_(both[-1:])
        mean = self.total / self.count.clamp(min=1)
        self.center.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
        self.total.zero_()
        self.count.zero_()
