"""Stand-ins that count: a backbone whose features can be told by hand, a split that says what was loaded of it."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from helpers.samples import INFO
from PIL import Image


class FakeBackbone:
    """Features are the mean colour: a quarter of it after the first of four blocks, all of it after the last.

    `before` is called ahead of every forward pass.
    """

    def __init__(self, before: Callable[[torch.Tensor], None] = lambda x: None, **info: Any) -> None:
        self.info = dataclasses.replace(INFO, **info)
        self.patch_size, self.embed_dim, self.size_multiple = self.info.patch_size, 3, 1
        self.capabilities = frozenset({"features", "layers", "patches"})
        self.before = before
        self.images = 0

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.before(x)
        self.images += len(x)
        return x.mean(dim=(2, 3))

    def layers(self, x: torch.Tensor, n: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cls = self.features(x)
        depths = range(1, 5)[-n:]  # four blocks, of which the last n
        return [(d / 4 * cls, torch.stack([d * cls, (d + 2) * cls], dim=1)) for d in depths]

    def to(self, device: Any) -> FakeBackbone:
        return self


class FakeSplit:
    """Images of one colour each; `broken` cannot be loaded."""

    name, in_memory = "test", False

    def __init__(self, n: int, seed: int = 0, broken: tuple[int, ...] = ()) -> None:
        rng = np.random.default_rng(seed)
        self.colors = rng.integers(0, 256, (n, 3), dtype=np.uint8)
        self.ids = [f"images/{i}.png" for i in range(n)]
        self.labels = rng.integers(0, 2, n)
        self.fingerprint = f"split {n} {seed}"
        self.broken = broken
        self.loads: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        with self._lock:
            self.loads[index] += 1
        if index in self.broken:
            raise OSError("broken")
        return Image.new("RGB", (8, 8), tuple(int(c) for c in self.colors[index]))
