"""Features of images' windows extracted once, on disk: what a head is trained on where time is short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from dinobench.data.label_maps import LabelMapSplit, read_pair
from dinobench.dense.head_training import Batch
from dinobench.dense.reading import MapReader
from dinobench.dense.resizing import resize_labels, thinned
from dinobench.dense.segmenter import BATCH, WINDOWS, SlidingView
from dinobench.features.extraction import forward_batches, lost_images, out_of_range
from dinobench.training.sampler import Order
from dinobench.training.step_values import to_device
from dinobench.types import Context


class ExtractedWindows:
    """All windows of all images at the first scale of `view`, whose side must be its crop or more.

    They are kept in files of `folder`, features as float16 and labels thinned by `stride`: windows overlap, and are
    more than a machine's memory may hold. The windows' order, and so what each of `steps` steps sees, does not depend
    on the number of processes or of images that go through the backbone at once.
    """

    def __init__(
        self, split: LabelMapSplit, view: SlidingView, maps: MapReader, stride: int, folder: Path, ctx: Context, *,
        batch: int, steps: int,
    ) -> None:  # fmt: skip
        self.split, self.view, self.maps, self.stride, self.ctx = split, view, maps, stride, ctx
        self.folder = folder
        indices = range(len(split))[ctx.shard(len(split))]
        broken: list[int] = []
        own = ctx.run_on_all(lambda: self._extract(indices, broken))
        #: Noted as left out already.
        self.broken = {split.ids[i] for i in lost_images(split.name, split.ids, broken, partial(read_pair, split), ctx)}
        places = ctx.gather(torch.from_numpy(own)).numpy()
        #: Of every window the process that has it and the row of its files, ordered by image and number in the image.
        self.places = places[np.lexsort((places[:, 1], places[:, 0]))][:, 2:]
        self.order = Order(len(self.places), batch, ctx.seed, steps)
        shape = maps.shape(view.crop, ctx)
        side = len(range(stride // 2, view.crop, stride))
        counts = np.bincount(self.places[:, 0], minlength=ctx.processes).tolist()
        self.files = {
            rank: (
                np.memmap(self._path("features", rank), np.float16, "r", shape=(rows, *shape)),
                np.memmap(self._path("labels", rank), np.uint8, "r", shape=(rows, side, side)),
            )
            for rank, rows in enumerate(counts)
            if rows
        }

    def __len__(self) -> int:
        return len(self.places)

    def load(self, first: int) -> Iterator[Batch]:
        """As `Batches` says."""
        for step in range(first, self.order.steps):
            rows = [(self.files[rank], row) for rank, row in self.places[self.order(0, step)[0]].tolist()]
            maps = torch.from_numpy(np.stack([features[row] for (features, _), row in rows]))
            labels = torch.from_numpy(np.stack([labels[row] for (_, labels), row in rows]))
            yield Batch(to_device(maps, self.ctx.device).float(), to_device(labels, self.ctx.device))

    def _path(self, what: str, rank: int) -> Path:
        return self.folder / f"{what}-{rank}.bin"

    def _extract(self, indices: Sequence[int], broken: list[int]) -> np.ndarray:
        """Write the windows of these images; returns for each (windows, 4) int64: image, number, process, row."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            open(self._path("features", self.ctx.rank), "wb") as features,
            open(self._path("labels", self.ctx.rank), "wb") as labels,
        ):
            places = list(self._write(indices, broken, features, labels))
        table = [(image, number, self.ctx.rank, row) for row, (image, number) in enumerate(places)]
        return np.array(table, np.int64).reshape(-1, 4)

    def _write(
        self, indices: Sequence[int], broken: list[int], features: BinaryIO, labels: BinaryIO
    ) -> Iterator[tuple[int, int]]:
        def load(index: int) -> tuple[np.ndarray, np.ndarray]:
            image, truth = read_pair(self.split, index)
            pixels = self.view(image)[0]
            return pixels, resize_labels(truth, pixels.shape[1:], self.view.library)

        def forward(loaded: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
            x = self.view.normalise(torch.from_numpy(np.stack([pixels for pixels, _ in loaded])).to(self.ctx.device))
            cut = self.view.windows(*x.shape[2:]).cut(x)
            parts = [self.maps(part) for part in cut.split(WINDOWS)]
            return torch.cat(parts).half().cpu()

        batches = forward_batches(
            self.ctx, indices, load, forward, batch=BATCH, broken=broken, key=lambda loaded: loaded[0].shape,
            watch=lambda loaded: self.ctx.progress(loaded, "Extracting features", len(indices)),
        )  # fmt: skip
        for batch, loaded, maps in batches:
            if not maps.isfinite().all():
                raise out_of_range(self.maps.backbone, [self.split.ids[index] for index in batch])
            features.write(maps.numpy().tobytes())
            for index, (pixels, truth) in zip(batch, loaded, strict=True):
                windows = self.view.windows(*pixels.shape[1:])
                cut = windows.cut(torch.tensor(truth)[None, None])[:, 0]
                labels.write(thinned(cut, self.stride).contiguous().numpy().tobytes())
                yield from ((index, number) for number in range(len(windows)))
