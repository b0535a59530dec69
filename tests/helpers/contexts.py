"""Contexts for protocols under test, and data for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from dinobench.context import LocalContext


class WatchedContext(LocalContext):
    """`each` is called with every item that passed through `progress`."""

    def __init__(self, each: Callable[[Any], None] = lambda item: None, **options: Any) -> None:
        super().__init__(**options)
        self.each = each

    def progress(self, iterable: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for item in iterable:
            yield item
            self.each(item)


class ShardContext(LocalContext):
    """One of several processes that are threads here; they meet where real ones would."""

    def __init__(self, rank: int, parts: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.processes, self._parts, self._barrier = rank, len(parts), parts, barrier

    def shard(self, n: int) -> slice:
        return slice(n * self.rank // self.processes, n * (self.rank + 1) // self.processes)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        self._parts[self.rank] = part.cpu()
        self._barrier.wait()
        whole = torch.cat(self._parts)
        self._barrier.wait()  # before anybody writes the next part
        return whole


def on_processes(n: int, work: Callable[[ShardContext], Any]) -> list[Any]:
    """What `work` returns in each of n processes, by rank."""
    parts, barrier = [None] * n, threading.Barrier(n)
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda rank: work(ShardContext(rank, parts, barrier)), range(n)))


def clusters(n: int, classes: int, dim: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, dim) float64 around one centre per class, and their labels (n,)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, dim))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    return centres[labels] + spread * rng.standard_normal((n, dim)), labels
