"""Batches of augmented training images, decoded by threads and kept in memory as far as a budget allows.

What an image becomes depends on the seed, the pass over the data and the image alone: never on the number of
processes, threads or micro-batches. PIL lets go of Python's lock, so threads do what other loaders need processes for,
and one copy of the decoded images serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinobench.data.decoding import (
    BROKEN_IMAGE,
    ImageCache,
    decoding_threads,
    in_order,
    ram_budget,
    why_unreadable,
)  # fmt: skip
from dinobench.errors import UserError
from dinobench.types import ImageSplit

#: Images per forward pass. A CPU gains nothing from more; a GPU starves on fewer.
MICRO_CPU, MICRO_GPU = 32, 256

#: (image, generator) -> one view (3, H, W) uint8, or several of them.
Augment = Callable[[Any, np.random.Generator], Any]
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
    `opened` makes what `augment` takes of an image's array, which is what is kept.
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
        opened: Callable[[np.ndarray], Any] = Image.fromarray,
    ) -> None:
        self.opened = opened
        self.split, self.augment, self.seed, self.skip_broken = split, augment, seed, skip_broken
        self.micro_batch = micro_batch or (MICRO_CPU if on_cpu else MICRO_GPU)
        self.workers, self.overlap = decoding_threads(workers), not on_cpu
        self.images = ImageCache(split, np.asarray, ram_budget(ram_bytes, processes))
        self.broken: set[str] = set()

    def load(self, steps: Iterable[StepIndices], shard: Callable[[int], slice] = slice) -> Iterator[MicroBatch]:
        """The micro-batches of every step in turn; `shard` cuts this process's part out of n images.

        Raises UserError naming the image that cannot be decoded, unless `skip_broken`.
        """
        batches, ahead = tee(self._micro_batches(steps, shard))
        views = in_order(
            self._view, ((int(r), int(p)) for rows, passes, _ in ahead for r, p in zip(rows, passes, strict=True)),
            threads=self.workers, ahead=self.micro_batch * (3 if self.overlap else 1), overlap=self.overlap,
        )  # fmt: skip
        with closing(views):
            for rows, _, last in batches:
                yield self._collect(rows, list(islice(views, len(rows))), last)

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

    def _view(self, wanted: tuple[int, int]) -> tuple[np.ndarray, ...] | None:
        row, pass_index = wanted
        try:
            image = self.opened(self.images.get(row))
        except BROKEN_IMAGE:
            return None
        views = self.augment(image, np.random.default_rng((self.seed, pass_index, row)))
        return views if isinstance(views, tuple) else (views,)

    def _collect(self, rows: np.ndarray, done: list[tuple[np.ndarray, ...] | None], last: bool) -> MicroBatch:
        good = np.array([views is not None for views in done], bool)
        if not good.all():
            names = [self.split.ids[int(r)] for r in rows[~good]]
            if not self.skip_broken:
                why = why_unreadable(lambda: self.images.get(int(rows[~good][0])))
                raise UserError(
                    f"{names[0]} of {self.split.name} cannot be read{f' ({why})' if why else ''}; repair or delete it, "
                    "or use --skip-broken"
                )
            self.broken.update(names)
        kept = [views for views in done if views is not None]
        return MicroBatch(rows[good], tuple(torch.from_numpy(np.stack(v)) for v in zip(*kept, strict=True)), last)
