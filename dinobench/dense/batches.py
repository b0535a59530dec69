"""Features of images augmented anew for every step of a head's training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from dinobench.data.label_maps import LabelMapSplit, read_pair
from dinobench.dense.augment import SegmentationCrop
from dinobench.dense.head_training import Batch
from dinobench.dense.resizing import thinned
from dinobench.dense.segmenter import MapReader
from dinobench.distributed import gather_rows
from dinobench.errors import BrokenImage, UserError
from dinobench.training.loader import ImageLoader, MicroBatch
from dinobench.training.sampler import Order
from dinobench.training.step_values import to_device
from dinobench.types import Context


class LabelledImages:
    """A split of label maps as one of images whose fourth band (alpha) is the labels: as such a loader keeps it."""

    def __init__(self, split: LabelMapSplit) -> None:
        self._split = split
        self.name, self.ids, self.fingerprint, self.in_memory = split.name, split.ids, split.fingerprint, False
        self.labels = np.zeros(len(split), np.int64)  # of whole images, which nobody reads

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        """The RGBA image. Raises OSError where image or labels cannot be read."""
        try:
            image, labels = read_pair(self._split, index)
        except BrokenImage as error:
            raise OSError(str(error)) from error
        image.putalpha(Image.fromarray(labels))
        return image


class AugmentedBatches:
    """Features of random crops. Each process computes those of its part of a step, and all get the whole."""

    def __init__(
        self, split: LabelMapSplit, augment: SegmentationCrop, maps: MapReader, order: Order, stride: int, ctx: Context
    ) -> None:
        self.augment, self.maps, self.order, self.stride, self.ctx = augment, maps, order, stride, ctx
        self.loader = ImageLoader(
            LabelledImages(split), augment, seed=ctx.seed, on_cpu=ctx.device.type == "cpu", processes=ctx.processes,
            micro_batch=ctx.batch_size, workers=ctx.workers, ram_bytes=ctx.ram_bytes, skip_broken=ctx.skip_broken,
        )  # fmt: skip

    def __call__(self, first: int) -> Iterator[Batch]:
        """The steps from `first` on. Raises UserError, on all processes, where one has no image of a step to read."""
        parts = self.loader.load((self.order(0, step) for step in range(first, self.order.steps)), self.ctx.shard)
        for _ in range(first, self.order.steps):
            own = self.ctx.run_on_all(lambda: self._step(parts))
            yield own if self.ctx.processes == 1 else Batch(gather_rows(own.maps), gather_rows(own.labels))

    def _step(self, parts: Iterator[MicroBatch]) -> Batch:
        """What this process has of the next step."""
        device, maps, labels = self.ctx.device, [], []
        for part in parts:
            if part.n:
                pixels, truth, extents = part.views
                with self.ctx.inference():
                    x = self.augment.normalise(pixels.to(device, non_blocking=True), extents)
                    maps.append(self.maps(x).float())
                labels.append(to_device(thinned(truth, self.stride).contiguous(), device))
            if part.last:
                break
        if not maps:
            raise UserError(
                f"{self.loader.split.name}: no image of a training step can be read"
                + (", or a step has fewer images than there are processes; raise batch" * (self.ctx.processes > 1))
            )
        return Batch(torch.cat(maps), torch.cat(labels))  # copies, which may be gone back through
