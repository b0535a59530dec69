"""Random numbers of a training's own, which leave no trace outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def own_randomness(device: torch.device, *numbers: int) -> Iterator[None]:
    """What a model itself draws (dropout) comes from `numbers` inside, and leaves no trace outside."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
