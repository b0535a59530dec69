"""Right or wrong: from class scores to top-1 and top-5."""

from __future__ import annotations

import torch


def label_rank(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The 0-based place of the true class when classes are sorted by score.

    scores (n, classes), labels (n,) int64 -> (n,) int64. Equal scores are ordered by class index, which is what a
    stable descending sort gives; no sort is done.

    >>> label_rank(torch.tensor([[0.1, 0.7, 0.7], [0.0, 0.0, 1.0]]), torch.tensor([2, 1]))
    tensor([1, 2])
    """
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device)[None] < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(dim=1)


def first_argmax(scores: torch.Tensor) -> torch.Tensor:
    """The best class of each row, the lowest index where several are equal. (n, classes) -> (n,) int64.

    >>> first_argmax(torch.tensor([[0.1, 0.7, 0.7]]))
    tensor([1])
    """
    best = scores == scores.amax(dim=1, keepdim=True)
    return best.to(torch.uint8).argmax(dim=1)  # argmax of a mask of ones finds the first in every torch release
