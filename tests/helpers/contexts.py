"""A context for protocols under test: one process on the CPU, features computed in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinobench.features.service import compute_features
from dinobench.types import Features


class MemoryContext:
    """As `dinobench.types.Context`; `each` is called with every item that passes through `progress`."""

    device = torch.device("cpu")
    rank, processes = 0, 1
    batch_size, workers, ram_bytes, skip_broken = None, None, None, False

    def __init__(self, seed: int = 0, scratch: Path | None = None, each: Callable[[Any], None] | None = None) -> None:
        self.seed, self.each = seed, each
        self._own = tempfile.TemporaryDirectory(prefix="dinobench-tests-")  # goes with this object
        self.scratch = scratch or Path(self._own.name)
        self.artifacts: dict[str, bytes] = {}
        self._features: dict[Any, Features] = {}

    def shard(self, n: int) -> slice:
        return slice(0, n)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return part.cpu()

    def autocast(self) -> Any:
        return nullcontext()

    def artifact(self, name: str, content: bytes) -> None:
        self.artifacts[name] = content

    def run_on_all(self, work: Callable[[], Any]) -> Any:
        return work()

    def inference(self) -> Any:
        return torch.inference_mode()

    def features(self, backbone: Any, split: Any, request: Any) -> Features:
        key = id(backbone), split.fingerprint, repr(request)
        if key not in self._features:
            pixels = np.stack([request.transform(split.load(i)) for i in range(len(split))])
            x = request.transform.normalise(torch.from_numpy(pixels))
            with torch.inference_mode():
                cls, mean = compute_features(backbone, x, request.layers, request.mean_patches)
            self._features[key] = Features(cls, mean, np.arange(len(split)))
        return self._features[key]

    def progress(self, iterable: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for item in iterable:
            yield item
            if self.each:
                self.each(item)


def clusters(n: int, classes: int, dim: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, dim) float64 around one centre per class, and their labels (n,)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, dim))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    return centres[labels] + spread * rng.standard_normal((n, dim)), labels


class Context:
    """One process without a screen that keeps the artifacts it is handed."""

    seed, rank, processes, device, workers = 0, 0, 1, torch.device("cpu"), None

    def __init__(self):
        self.artifacts = {}

    def shard(self, n):
        return slice(0, n)

    def gather(self, part):
        return part

    def progress(self, iterable, description, total=None):
        return iter(iterable)

    def artifact(self, name, content):
        self.artifacts[name] = content
