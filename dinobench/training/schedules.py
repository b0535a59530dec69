"""Values that change while training: learning rate, weight decay, teacher momentum."""

from __future__ import annotations

import numpy as np


def cosine(
    base: float,
    final: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    start: float = 0.0,
) -> np.ndarray:
    """Linear warm-up from `start` to `base`, then half a cosine from `base` towards `final`: one float64 per step.

    The last step is one short of `final`, and with a warm-up `base` comes twice, as in facebookresearch/dino
    (`cosine_scheduler`, arXiv 2104.14294). Without warm-up it is SGDR's equation 5 (Loshchilov and Hutter 2017, arXiv
    1608.03983) and torch's CosineAnnealingLR.

    Raises ValueError when the warm-up is longer than the whole.

    >>> cosine(1.0, 0.0, epochs=4, steps_per_epoch=1).round(3).tolist()
    [1.0, 0.854, 0.5, 0.146]
    """
    total, warmup = epochs * steps_per_epoch, warmup_epochs * steps_per_epoch
    if not 0 <= warmup <= total:
        raise ValueError(f"{warmup_epochs} warm-up epochs do not fit into {epochs}")
    falling = total - warmup
    phase = np.pi * np.arange(falling) / max(falling, 1)
    return np.concatenate([np.linspace(start, base, warmup), final + 0.5 * (base - final) * (1 + np.cos(phase))])
