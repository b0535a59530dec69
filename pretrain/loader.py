"""Batches of views for training: images decoded once where memory allows, views made ahead of where they are used.

On a GPU threads decode, and the views of the next micro-batch are made on the device while this one is trained on. On
a CPU worker processes make whole micro-batches, or the training process does where there are no cores to spare. What a
batch holds depends on the seed, the epoch and the step alone, so all of this is only a matter of speed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, pairwise
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dinobench.data.decoding import BROKEN_IMAGE, ImageCache, decoding_threads, in_order, ram_budget, usable_cpus
from dinobench.errors import UserError
from dinobench.pretrain.method import View
from dinobench.pretrain.resample import ImageBatch, pack
from dinobench.pretrain.views import normalise, render
from dinobench.signals import ENDING
from dinobench.training.sampler import Order
from dinobench.types import ImageSplit

#: Micro-batches whose images are decoded ahead, and that each worker process makes ahead.
AHEAD = 2
#: One worker process for so many cores: views take about a tenth of a small training's time.
CORES_PER_WORKER = 4

T = TypeVar("T")


@dataclass(frozen=True)
class ViewBatch:
    """A micro-batch on the training's device: `views` of (b, 3, size, size) float32, normalised; `labels` (b,) int64
    or None; `rows` (b,) of the split; `last` ends an optimizer step."""

    views: list[torch.Tensor]
    labels: torch.Tensor | None
    rows: np.ndarray
    last: bool


@dataclass(frozen=True)
class BatchIndices:
    """A micro-batch yet to be made: these rows in this pass over the data."""

    epoch: int
    rows: np.ndarray
    last: bool


class ViewLoader:
    """The views of `split` in batches of `batch` images over all `processes`, of which this is `rank`.

    Each process takes its contiguous share of a batch, in parts of at most `micro_batch` images, as even as can be.
    `workers`: on a CPU the processes that make views, 0 for none beside this one; elsewhere the threads that decode.
    `ram_bytes`: what decoded images may take in this process, a quarter of the machine's memory over all by default.

    Raises UserError when an epoch has no full batch, when the processes cannot share one evenly, and from `epoch` when
    an image cannot be read.
    """

    def __init__(
        self,
        split: ImageSplit,
        views: Sequence[View],
        *,
        batch: int,
        micro_batch: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
        workers: int | None = None,
        ram_bytes: int | None = None,
    ) -> None:
        if len(split) < batch:
            raise UserError(
                f"{split.name} holds {len(split)} images, which make no batch of {batch}; "
                f"use --set batch={len(split)} or less"
            )
        if batch % processes:
            raise UserError(
                f"a batch of {batch} cannot be shared evenly by {processes} processes; "
                f"use --set batch={batch // processes * processes or processes}"
            )
        self.split, self.views, self.seed, self.device = split, tuple(views), seed, device
        self.labelled = bool((np.asarray(split.labels) >= 0).all())
        self.rank, self.processes = rank, processes
        self.batch, self.micro_batch = batch, micro_batch
        #: Full batches only: the rest of an epoch's permutation is left out.
        self.steps_per_epoch = len(split) // batch
        self._order = Order(len(split), batch, seed)
        self.workers = _worker_processes(workers, device, processes)
        self.threads = decoding_threads(None if workers is None or self.workers else max(1, workers))
        self.images = ImageCache(split, channels_first, ram_budget(ram_bytes, processes))

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[ViewBatch]:
        """This process's micro-batches of an epoch, from a step of it on."""
        batches = self._indices(epoch, first_step)
        if self.device.type == "cuda":
            return self._on_gpu(batches)
        return self._from_workers(batches) if self.workers else self._in_line(batches)

    def _indices(self, epoch: int, first_step: int) -> Iterator[BatchIndices]:
        share = self.batch // self.processes
        parts = -(-share // self.micro_batch)
        cuts = [share * (self.rank * parts + i) // parts for i in range(parts + 1)]
        for step in range(first_step, self.steps_per_epoch):
            rows, _ = self._order(epoch, step)
            for i in range(parts):
                yield BatchIndices(epoch, rows[cuts[i] : cuts[i + 1]], i == parts - 1)

    def make(
        self, indices: BatchIndices, images: Sequence[torch.Tensor], flat: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The views of a batch, uint8, on the device."""
        passes = np.full(len(indices.rows), indices.epoch)
        return render(
            ImageBatch(images, self.device, flat), self.views, seed=self.seed, passes=passes, rows=indices.rows
        )

    def _batch(self, indices: BatchIndices, views: Sequence[torch.Tensor]) -> ViewBatch:
        labels = torch.from_numpy(np.asarray(self.split.labels)[indices.rows].astype(np.int64))
        if self.device.type == "cuda":
            labels = labels.pin_memory()
        normalised = [normalise(view) for view in views]
        on_device = labels.to(self.device, non_blocking=True) if self.labelled else None
        return ViewBatch(normalised, on_device, indices.rows, indices.last)

    def image(self, row: int) -> torch.Tensor:
        """One image (3, H, W) uint8. Raises UserError naming it when it cannot be read."""
        try:
            return self.images.get(row)
        except BROKEN_IMAGE as error:
            name = self.split.ids[row]
            raise UserError(
                f"{name} of {self.split.name} cannot be read ({error}); repair it, or go on without it by "
                "--resume FOLDER --skip-broken"
            ) from error

    def _decoded(
        self, batches: Iterable[BatchIndices], ahead: int, overlap: bool
    ) -> Generator[torch.Tensor, None, None]:
        """The images of the batches, one after the other."""
        rows = (row for indices in batches for row in indices.rows.tolist())
        if self.split.in_memory:  # a thread would only take a tiny network's time
            return (self.image(row) for row in rows)
        return in_order(self.image, rows, threads=self.threads, ahead=ahead, overlap=overlap)

    def _in_line(self, batches: Iterable[BatchIndices]) -> Iterator[ViewBatch]:
        order = list(batches)
        with closing(self._decoded(order, self.micro_batch, overlap=False)) as images:
            for indices in order:
                yield self._batch(indices, self.make(indices, list(islice(images, len(indices.rows)))))

    def _from_workers(self, batches: Iterable[BatchIndices]) -> Iterator[ViewBatch]:
        self._fill()  # before the fork, so that one copy of the pixels serves all workers
        order = list(batches)
        rendered = iter(
            DataLoader(
                _RenderedViews(self),
                batch_size=None,
                sampler=order,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                prefetch_factor=AHEAD,
                multiprocessing_context="fork",
                worker_init_fn=_leave_signals_to_the_parent,
                generator=torch.Generator(),  # its own: the training's random numbers stay those of a run in line
            )
        )
        try:
            for indices in order:
                views = next(rendered)
                if isinstance(views, UserError):
                    raise views
                yield self._batch(indices, views)
        finally:
            del rendered  # the workers end with it, also where an error keeps this frame alive

    def _on_gpu(self, batches: Iterable[BatchIndices]) -> Iterator[ViewBatch]:
        device = torch.device("cuda", torch.cuda.current_device() if self.device.index is None else self.device.index)
        stream = torch.cuda.Stream(device)
        order = list(batches)
        images = self._decoded(order, (AHEAD + 1) * self.micro_batch, overlap=True)

        def packed(indices: BatchIndices) -> tuple[BatchIndices, list[torch.Tensor], torch.Tensor]:
            own = list(islice(images, len(indices.rows)))
            return indices, own, pack(own, pinned=True)

        def staged(loaded: tuple[BatchIndices, list[torch.Tensor], torch.Tensor]) -> tuple[ViewBatch, torch.cuda.Event]:
            with torch.cuda.stream(stream):
                batch = self._batch(loaded[0], self.make(*loaded))
                return batch, stream.record_event()

        # One thread packs, on its own device, or pinning memory would open a context on the first GPU in every process.
        packing = in_order(
            packed, order, threads=1, ahead=AHEAD + 1, overlap=True, start=partial(torch.cuda.set_device, device)
        )
        with closing(images), closing(packing):
            for batch, event in one_ahead(map(staged, packing)):
                current = torch.cuda.current_stream(device)
                current.wait_event(event)
                for tensor in (*batch.views, batch.labels):
                    if tensor is not None:
                        tensor.record_stream(current)  # or its memory would be reused while it is trained on
                yield batch

    def _fill(self) -> None:
        """Decode what fits into memory, in the order of the split."""
        if self.split.in_memory:
            return
        rows = range(len(self.split))
        for image in in_order(self.image, rows, threads=self.threads, ahead=16 * self.threads, overlap=True):
            if image.nbytes > self.images.room:
                break


def channels_first(image: Image.Image) -> torch.Tensor:
    """An RGB image -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each handed on once the next one has been asked for."""
    for item, _ in pairwise(chain(items, [None])):
        yield cast(T, item)


class _RenderedViews(Dataset[Any]):
    """What worker processes do: a batch in, its views out, or the UserError, which would lose its form if raised."""

    def __init__(self, loader: ViewLoader) -> None:
        self.loader = loader

    def __getitem__(self, indices: BatchIndices) -> list[torch.Tensor] | UserError:
        try:
            return self.loader.make(indices, [self.loader.image(row) for row in indices.rows.tolist()])
        except UserError as error:
            return error


def _as_it_is(views: Any) -> Any:
    return views


def _leave_signals_to_the_parent(worker: int) -> None:
    """Terminals and schedulers signal every process of theirs: the training decides when its workers end.

    It ends them by SIGTERM, which they heed from nobody else; a system that does not tell who sent it leaves the choice
    between workers that outlive their training and ones that schedulers end too early.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN if number != signal.SIGTERM else signal.SIG_DFL)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # before any thread of the worker's own

    def wait() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _worker_processes(workers: int | None, device: torch.device, processes: int) -> int:
    """Worker processes beside this one: none where views are made on an accelerator, or cores are few."""
    if device.type != "cpu" or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    if workers is not None:
        return workers
    cores = usable_cpus() // processes
    return 0 if cores <= 2 else min(16, max(1, cores // CORES_PER_WORKER))
