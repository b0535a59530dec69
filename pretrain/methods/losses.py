"""Losses that several methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dinobench.distributed import rank


def info_nce_in_batch(
    queries: torch.Tensor, keys: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE (arXiv 1807.03748, equation 4) of queries (B, d) against keys (n, d) of which those at
    rank × B + 0 .. B − 1 are the queries' own -> (loss, accuracy), scalars. Float32 whatever the precision around it.

    >>> loss, accuracy = info_nce_in_batch(torch.eye(2), torch.eye(2), 0.5)
    >>> round(loss.item(), 4), accuracy.item()
    (0.1269, 1.0)
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T / temperature
    own = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
    return F.cross_entropy(logits, own), accuracy(logits, own)


@torch.no_grad()
def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits (n, classes), labels (n,) -> the fraction whose largest logit is the label's."""
    return (logits.argmax(1) == labels).float().mean()
