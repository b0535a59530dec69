"""What a protocol is offered while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from dinobench import console
from dinobench.features.service import FeatureService
from dinobench.files import atomic_path
from dinobench.runtime import Runtime

T = TypeVar("T")


@dataclass(frozen=True)
class RunContext:
    """What a protocol is offered: see `dinobench.types.Context`."""

    runtime: Runtime
    service: FeatureService
    seed: int
    scratch: Path
    artifacts: Path | None = None
    batch_size: int | None = None
    workers: int | None = None
    ram_bytes: int | None = None
    skip_broken: bool = False

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    @property
    def rank(self) -> int:
        return self.runtime.rank

    @property
    def processes(self) -> int:
        return self.runtime.processes

    def shard(self, n: int) -> slice:
        return self.runtime.shard(n)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return self.runtime.gather(part)

    def run_on_all(self, work: Callable[[], T]) -> T:
        return self.runtime.run_on_all(work)

    def artifact(self, name: str, content: bytes) -> None:
        if self.artifacts is not None:
            with atomic_path(self.artifacts / name) as temporary:
                temporary.write_bytes(content)

    def autocast(self) -> AbstractContextManager[None]:
        return self.runtime.autocast()

    def inference(self) -> AbstractContextManager[None]:
        return self.runtime.inference()

    def features(self, backbone: Any, split: Any, request: Any) -> Any:
        return self.service.get(backbone, split, request)

    def progress(self, iterable: Any, description: str, total: int | None = None) -> Iterator[Any]:
        return console.progress(iterable, description, total)
