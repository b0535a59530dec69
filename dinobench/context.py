"""What a protocol is offered while it runs: `RunContext` by the runner, `LocalContext` by whoever has none.

Both are `dinobench.types.Context`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from dinobench import console
from dinobench.data.transforms import fitted
from dinobench.errors import UserError
from dinobench.features.extraction import forward_batches, load_by_id, refuse_unreadable
from dinobench.features.service import BATCH, FeatureService, compute_features
from dinobench.files import cache_root, write_output
from dinobench.runtime import Runtime, autocast
from dinobench.types import Backbone, FeatureRequest, Features, ImageSplit

T = TypeVar("T")


@dataclass(frozen=True)
class RunContext:
    """A run's: several processes, cached features, progress bars.

    `broken` collects what was left out, `zeros` the images, with their split, that have features of zeros alone.
    """

    runtime: Runtime
    service: FeatureService
    seed: int
    scratch: Path
    folder: Path | None = None  # for the files that the run makes
    batch_size: int | None = None
    workers: int | None = None
    ram_bytes: int | None = None
    skip_broken: bool = False
    broken: set[str] = field(default_factory=set)
    zeros: set[tuple[str, str]] = field(default_factory=set)

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    @property
    def rank(self) -> int:
        return self.runtime.rank

    @property
    def processes(self) -> int:
        return self.runtime.processes

    @property
    def saves(self) -> bool:
        return self.folder is not None

    def save(self, name: str, content: bytes) -> None:
        _save(self.folder, name, content)

    def left_out(self, images: Iterable[str]) -> None:
        self.broken.update(images)

    def shard(self, n: int) -> slice:
        return self.runtime.shard(n)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return self.runtime.gather(part)

    def run_on_all(self, work: Callable[[], T]) -> T:
        return self.runtime.run_on_all(work)

    def autocast(self) -> AbstractContextManager[None]:
        return self.runtime.autocast()

    def inference(self) -> AbstractContextManager[None]:
        return self.runtime.inference()

    def features(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Features:
        features = self.service.get(backbone, split, request)
        self.left_out(f"{split.name}/{name}" for name in features.broken)
        self.zeros.update((split.name, name) for name in features.zeros)
        return features

    def progress(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        return console.progress(iterable, description, total)


class LocalContext:
    """One process, no cache on disk, silent: for benches, tests and people who write plug-ins.

    >>> import dinobench
    >>> from dinobench.data import load_dataset
    >>> from dinobench.protocols import knn
    >>> backbone = dinobench.load_backbone("random:vit_tiny_patch16_224")
    >>> result = knn.run(backbone, load_dataset("digits"), knn.Config(resize=32, crop=32), LocalContext())
    >>> sorted(result.metrics)[:2]
    ['top1@k10', 'top1@k100']

    `folder`: for the files that a run makes; `scratch`: by default a folder that goes with this object. Raises
    UserError for an unknown precision.
    """

    rank, processes = 0, 1

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        seed: int = 0,
        precision: str = "32",
        batch_size: int | None = None,
        workers: int | None = None,
        ram_bytes: int | None = None,
        skip_broken: bool = False,
        scratch: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.device, self.seed, self.precision = torch.device(device), seed, precision
        self.batch_size, self.workers, self.ram_bytes, self.skip_broken = batch_size, workers, ram_bytes, skip_broken
        self._own = tempfile.TemporaryDirectory(prefix="dinobench-")
        self.scratch = scratch or Path(self._own.name)
        self.folder = folder
        self.broken: set[str] = set()
        self._features: dict[Any, Features] = {}

    @property
    def saves(self) -> bool:
        return self.folder is not None

    def save(self, name: str, content: bytes) -> None:
        _save(self.folder, name, content)

    def left_out(self, images: Iterable[str]) -> None:
        self.broken.update(images)

    def shard(self, n: int) -> slice:
        return slice(0, n)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return part.cpu()

    def run_on_all(self, work: Callable[[], T]) -> T:
        return work()

    def autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self.precision)

    @contextmanager
    def inference(self) -> Iterator[None]:
        with torch.inference_mode(), self.autocast():
            yield

    def features(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Features:
        """As the feature service has them, kept in memory while this object lives."""
        key = id(backbone), split.fingerprint, repr(request)
        if key not in self._features:
            self._features[key] = self._extracted(backbone, split, request)
        return self._features[key]

    def _extracted(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Features:
        broken: list[int] = []
        parts, rows = [], []
        request = fitted(request, backbone, split)

        def load(row: int) -> np.ndarray:
            return np.asarray(request.transform(split.load(row)))

        def forward(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
            x = request.transform.normalise(torch.from_numpy(np.stack(images)).to(self.device))
            return compute_features(backbone, x, request.layers, request.mean_patches)

        passes = forward_batches(
            self, range(len(split)), load, forward, batch=BATCH, key=lambda pixels: pixels.shape, broken=broken
        )
        for batch, _, computed in passes:
            rows += batch
            parts.append(computed)
        names = tuple(split.ids[row] for row in broken)
        refuse_unreadable(split.name, names, len(split), self.skip_broken, load_by_id(split))
        self.left_out(f"{split.name}/{name}" for name in names)
        order = np.argsort(rows)
        cls = np.concatenate([c for c, _ in parts])[order]
        patches = [p for _, p in parts if p is not None]
        return Features(cls, np.concatenate(patches)[order] if patches else None, np.array(rows)[order], names)

    def progress(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        return iter(iterable)


@contextmanager
def cache_folder(keep: bool, started: Runtime) -> Iterator[Path]:
    """The user's cache, or with `--no-cache` a folder that all processes share and that goes when the run ends."""
    if keep:
        yield cache_root() / "features"
        return
    folder = Path(started.broadcast(tempfile.mkdtemp(prefix="dinobench-") if started.rank == 0 else ""))
    try:
        yield folder / "features"
    finally:
        if started.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _save(folder: Path | None, name: str, content: bytes) -> None:
    if folder is not None:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{name}: a name that leads out of --save {folder}; rename the video or the image")
        write_output(folder / name, content)
