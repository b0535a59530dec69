"""Features of images augmented anew for every step of a head's training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from dinobench.data.label_maps import LabelMapSplit, read_pair
from dinobench.dense.augment import SegmentationCrop
from dinobench.dense.head_training import Batch
from dinobench.dense.reading import MapReader
from dinobench.dense.resizing import thinned
from dinobench.distributed import gather_rows
from dinobench.errors import BrokenImage, UserError
from dinobench.training.loader import Augment, ImageLoader, MicroBatch
from dinobench.training.sampler import Order
from dinobench.training.step_values import to_device
from dinobench.types import Context

#: Views of images (B, ...), as their augmentation makes them -> normalised images (B, 3, H, W) and truth (B, ...), both
#: on the device.
See = Callable[..., tuple[torch.Tensor, torch.Tensor]]


class Named(Protocol):
    """What is asked of a split here."""

    @property
    def name(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def fingerprint(self) -> str: ...


class PairedImages:
    """A split with a truth for every pixel as one of images with more bands than three: as such a loader keeps it.

    `pair(index)` is (H, W, bands) uint8.
    """

    in_memory = False

    def __init__(self, split: Named, pair: Callable[[int], np.ndarray]) -> None:
        self.name, self.ids, self.fingerprint, self._pair = split.name, split.ids, split.fingerprint, pair
        self.labels = np.zeros(len(split.ids), np.int64)  # of whole images, which nobody reads

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Any:
        """All bands (H, W, bands) uint8. Raises OSError where image or truth cannot be read."""
        try:
            return self._pair(index)
        except BrokenImage as error:
            raise OSError(str(error)) from error


class AugmentedBatches:
    """Features of random views. Each process computes those of its part of a step, and all get the whole.

    `blank` are the bands of an image that any view can be made of. `rows` (order.n,) are the images of the split that
    the order's numbers mean, all where there are none. `micro_batch` images at most go through the backbone at once.
    """

    def __init__(
        self, images: PairedImages, augment: Augment, see: See, maps: MapReader, order: Order, blank: np.ndarray,
        ctx: Context, *, rows: np.ndarray | None = None, micro_batch: int | None = None,
    ) -> None:  # fmt: skip
        self.see, self.maps, self.order, self.blank, self.ctx = see, maps, order, blank, ctx
        self.rows = np.arange(len(images)) if rows is None else rows
        self.loader = ImageLoader(
            images, augment, seed=ctx.seed, on_cpu=ctx.device.type == "cpu", processes=ctx.processes,
            micro_batch=micro_batch, workers=ctx.workers, ram_bytes=ctx.ram_bytes, skip_broken=ctx.skip_broken,
            opened=lambda bands: bands,
        )  # fmt: skip

    @property
    def broken(self) -> set[str]:
        return self.loader.broken

    def load(self, first: int) -> Iterator[Batch]:
        """As `Batches` says. Raises UserError, on all processes, where no image of a step can be read."""
        steps = range(first, self.order.steps)
        wanted = (self.order(0, step) for step in steps)
        parts = self.loader.load(((self.rows[places], passes) for places, passes in wanted), self.ctx.shard)
        for _ in steps:
            batch = self.ctx.run_on_all(lambda: self._step(parts))
            if self.ctx.processes > 1:
                batch = Batch(gather_rows(batch.maps), gather_rows(batch.truth))
            if not len(batch.maps):
                raise UserError(f"{self.loader.split.name}: no image of a training step can be read")
            yield batch

    def _step(self, parts: Iterator[MicroBatch]) -> Batch:
        """What this process has of the next step, which may be nothing."""
        maps, truths = [], []
        for part in parts:
            views = part.views if part.n else self._nothing()
            with self.ctx.inference():
                x, truth = self.see(*views)
                maps.append(self.maps(x).float()[: part.n])
                truths.append(truth[: part.n])
            if part.last:
                break
        return Batch(torch.cat(maps), torch.cat(truths))  # copies, which may be gone back through

    def _nothing(self) -> tuple[torch.Tensor, ...]:
        """Views of a blank image: they tell the shapes that nothing has."""
        views = self.loader.augment(self.blank, np.random.default_rng(0))
        return tuple(torch.from_numpy(view[None]) for view in views)


def labelled_batches(
    split: LabelMapSplit, augment: SegmentationCrop, maps: MapReader, order: Order, stride: int, ctx: Context
) -> AugmentedBatches:
    """Crops of images with their labels, thinned by `stride`."""

    def pair(index: int) -> np.ndarray:
        image, labels = read_pair(split, index)
        return np.dstack([np.asarray(image), labels])

    def see(pixels: torch.Tensor, truth: torch.Tensor, extents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = augment.normalise(pixels.to(ctx.device, non_blocking=True), extents)
        return x, to_device(thinned(truth, stride).contiguous(), ctx.device)

    blank = np.zeros((augment.crop, augment.crop, 4), np.uint8)
    return AugmentedBatches(
        PairedImages(split, pair), augment, see, maps, order, blank, ctx, micro_batch=ctx.batch_size
    )
