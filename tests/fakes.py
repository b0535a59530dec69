"""Stand-ins that count: a backbone whose features can be told by hand, a split that says what was loaded of it."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinobench.types import CheckpointInfo, MetricValue, RunRecord

INFO = CheckpointInfo(
    name="fake", path="fake", sha256="0" * 64, weights_digest="f" * 64, format="fake", key="", arch="fake",
    patch_size=16, embed_dim=3, depth=2, heads=1, registers=0, method="none", epoch=None,
)  # fmt: skip


class FakeBackbone:
    """Features are the mean colour; block i of `layers` multiplies it by i + 1. `before` runs ahead of every forward."""

    def __init__(self, before: Callable[[torch.Tensor], None] = lambda x: None, **info: Any) -> None:
        self.info = dataclasses.replace(INFO, **info)
        self.patch_size, self.embed_dim = self.info.patch_size, 3
        self.capabilities = frozenset({"features", "layers", "patches"})
        self.before = before
        self.images = 0

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.before(x)
        self.images += len(x)
        return x.mean(dim=(2, 3))

    def layers(self, x: torch.Tensor, n: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cls = self.features(x)
        depths = range(4 - n, 4)  # four blocks, of which the last n
        return [((d + 1) * cls, torch.stack([d * cls, (d + 2) * cls], dim=1)) for d in depths]

    def to(self, device: Any) -> FakeBackbone:
        return self


class FakeSplit:
    """Images of one colour each; `broken` cannot be loaded."""

    name = "test"

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


def record(run_id: str = "knn-a-b-0", **changes: Any) -> RunRecord:
    """A run record whose every field is filled."""
    fields: dict[str, Any] = {
        "schema": 1, "run_id": run_id, "protocol": "knn", "protocol_version": 1, "profile": "dino2021",
        "config": {"k": [10, 20], "temperature": 0.07, "flip": None}, "config_hash": "c" * 64, "dataset": "digits",
        "dataset_layout": "digits", "dataset_fingerprint": "d" * 64, "checkpoint": INFO, "seed": 0, "precision": "32",
        "metrics": {"top1@k20": MetricValue(74.512345678, 73.0, 76.0, 450, "%"),
                    "loss": MetricValue(0.125, None, None, 0, "nats")},
        "primary": "top1@k20", "started_at": "2024-05-01T12:00:00+00:00", "duration_s": 1.5, "device": "cpu",
        "processes": 1, "peak_memory_mb": 512.0, "broken_images": 0, "notes": ("k = 20 of «élève» ✓",),
        "versions": {"torch": "2.6.0"}, "dinobench_version": "0.1.0", "git_commit": None, "git_dirty": None,
    }  # fmt: skip
    return RunRecord(**{**fields, **changes})
