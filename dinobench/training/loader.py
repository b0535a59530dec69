"""Batches of augmented training images, decoded by threads and kept in memory as far as a budget allows.

What an image becomes depends on the seed, the pass over the data and the image alone: never on the number of
processes, threads or micro-batches. PIL lets go of Python's lock, so threads do what other loaders need processes for,
and one copy of the decoded images serves them all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinobench.data.decoding import BROKEN_IMAGE, decoding_threads, ram_budget
from dinobench.errors import UserError
from dinobench.types import ImageSplit

#: Images per forward pass. A CPU gains nothing from more; a GPU starves on fewer.
MICRO_CPU, MICRO_GPU = 32, 256

#: (image, generator) -> one view (3, H, W) uint8, or several of them.
Augment = Callable[[Image.Image, np.random.Generator], Any]
#: Images (b,) of the split that a step sees, and the pass (b,) over the data that each is wanted for.
StepIndices = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class MicroBatch:
    """Part of a step: `rows` (m,) of the split, `views` of (m, 3, H, W) uint8 each, `last` ends the step.

    A step that leaves this process without images is one micro-batch with no rows and no views.
    """

    rows: np.ndarray
    views: tuple[torch.Tensor, ...]
    last: bool

    @property
    def n(self) -> int:
        return len(self.rows)


class ImageLoader:
    """Loads steps of `split` through `augment`.

    `ram_bytes`: budget for decoded images, by default a quarter of the machine's memory divided among `processes`.
    With `skip_broken`, images that cannot be decoded are left out of their batches and collected in `broken`.
    """

    def __init__(
        self,
        split: ImageSplit,
        augment: Augment,
        *,
        seed: int,
        on_cpu: bool = True,
        processes: int = 1,
        micro_batch: int | None = None,
        workers: int | None = None,
        ram_bytes: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.split, self.augment, self.seed, self.skip_broken = split, augment, seed, skip_broken
        self.micro_batch = micro_batch or (MICRO_CPU if on_cpu else MICRO_GPU)
        self.workers = decoding_threads(workers)
        # Decoding ahead pays only where the forward pass runs elsewhere (see FeatureService).
        self.ahead = 0 if on_cpu else 2
        self.ram_bytes = ram_budget(ram_bytes, processes)
        self.broken: set[str] = set()
        self._in_memory = hasattr(split, "images")  # such a split holds its pixels itself
        self._kept: dict[int, np.ndarray] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def load(self, steps: Iterable[StepIndices], shard: Callable[[int], slice] = slice) -> Iterator[MicroBatch]:
        """The micro-batches of every step in turn; `shard` cuts this process's part out of n images.

        Raises UserError naming the image that cannot be decoded, unless `skip_broken`.
        """
        waiting: deque[tuple[np.ndarray, list[Future[Any]], bool]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for rows, passes, last in self._micro_batches(steps, shard):
                    work = [pool.submit(self._view, int(r), int(p)) for r, p in zip(rows, passes, strict=True)]
                    waiting.append((rows, work, last))
                    if len(waiting) > self.ahead:
                        yield self._collect(*waiting.popleft())
                while waiting:
                    yield self._collect(*waiting.popleft())
            finally:
                for _, work, _ in waiting:
                    for future in work:
                        future.cancel()

    def decoded(self, row: int) -> Image.Image:
        """The RGB image, from memory where it was kept. Raises one of `BROKEN_IMAGE`."""
        kept = self._kept.get(row)
        if kept is not None:
            return Image.fromarray(kept)
        image = self.split.load(row)
        if not self._in_memory:
            size = 3 * image.width * image.height
            with self._lock:
                room = row not in self._kept and self._kept_bytes + size <= self.ram_bytes
                self._kept_bytes += size if room else 0
            if room:
                self._kept[row] = np.asarray(image)
        return image

    def _micro_batches(
        self, steps: Iterable[StepIndices], shard: Callable[[int], slice]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        for step_images, step_passes in steps:
            part = shard(len(step_images))
            rows, passes = step_images[part], step_passes[part]
            starts = range(0, len(rows), self.micro_batch) or range(1)
            for start in starts:
                chunk = slice(start, start + self.micro_batch)
                yield rows[chunk], passes[chunk], start == starts[-1]

    def _view(self, row: int, pass_index: int) -> tuple[np.ndarray, ...] | None:
        try:
            image = self.decoded(row)
        except BROKEN_IMAGE:
            return None
        views = self.augment(image, np.random.default_rng((self.seed, pass_index, row)))
        return views if isinstance(views, tuple) else (views,)

    def _collect(self, rows: np.ndarray, work: list[Future[Any]], last: bool) -> MicroBatch:
        done = [future.result() for future in work]
        good = np.array([views is not None for views in done], bool)
        if not good.all():
            names = [self.split.ids[int(r)] for r in rows[~good]]
            if not self.skip_broken:
                raise UserError(
                    f"{names[0]} of {self.split.name} cannot be read; repair or delete it, or use --skip-broken"
                )
            self.broken.update(names)
        kept = [views for views in done if views is not None]
        return MicroBatch(rows[good], tuple(torch.from_numpy(np.stack(v)) for v in zip(*kept, strict=True)), last)
