"""One extraction service for every protocol: features of images by backbones, cached by content.

What decides a feature is its key: the weights, how the backbone reads them, the transform, the images' contents, the
kind of feature and the precision. Wanted entries that agree on images and transform are filled in one pass over the
images, whatever number of backbones and protocols they belong to; what an entry with more blocks holds already is
taken from there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from dinobench import console
from dinobench.data.transforms import ImageTransform, fitted
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.features import pace
from dinobench.features.cache import BROKEN, DONE, OUT_OF_RANGE, Entry, Writer, finish, hold, locked
from dinobench.features.entries import entry_of
from dinobench.features.extraction import (
    fetched,
    forward_batches,
    in_range,
    load_by_id,
    out_of_range,
    to_device,
    unreadable,
    without_direction,
)
from dinobench.features.residents import Residents
from dinobench.runtime import Runtime, device_name
from dinobench.types import Backbone, FeatureRequest, Features, ImageSplit

#: Seconds of work that a power cut may cost: rows are synchronised to disk this often.
FLUSH_SECONDS = 5.0

#: Images per forward pass on a CPU and elsewhere, unless the user chose.
BATCH = 32, 256

Wanted = tuple[Backbone, ImageSplit, FeatureRequest]
#: CLS and mean patch tokens of a batch, (B, layers, D) each.
OnDevice = tuple[torch.Tensor, torch.Tensor | None]
Computed = tuple[np.ndarray | None, np.ndarray | None]


class FeatureService:
    """Extracts and caches under `root`. With `skip_broken`, images that cannot be read are left out and counted."""

    def __init__(
        self,
        runtime: Runtime,
        root: Path,
        *,
        skip_broken: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.runtime, self.root, self.skip_broken = runtime, root, skip_broken
        self.batch_size, self.workers = batch_size, workers
        self.residents = Residents(runtime.device)
        self._complete: set[str] = set()
        self._held: dict[str, IO[bytes] | None] = {}  # what this run has still to read, against pruning

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    def inference(self) -> AbstractContextManager[None]:
        return self.runtime.inference()

    def get(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Features:
        """The features asked for; extracts what the cache lacks. Raises UserError for broken images."""
        self._prepare([(backbone, split, request)], self.residents.also)
        entry = self.entry(backbone, split, request)
        state = entry.state()
        kept = np.flatnonzero(state == DONE)
        pick = slice(None) if len(kept) == len(state) else kept
        cls = entry.read("cls")[pick]
        zeros = without_direction(cls)
        if len(kept) and zeros.all():
            raise out_of_range(backbone, [split.ids[int(i)] for i in kept])
        return Features(
            cls,
            entry.read("mean_patches")[pick] if request.mean_patches else None,
            kept,
            _ids(split, state == BROKEN),
            tuple(split.ids[int(i)] for i in kept[zeros]),
        )

    def entry(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Entry:
        """The cache entry of a request."""
        return entry_of(self.root, self.runtime.precision, backbone, split, request)

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Fill the cache with everything `wanted`, in one pass for each pair of images and what is cut out of them.

        The backbones of a pass are brought to the device, and those of the pass before that are not among them taken
        off it. What is in the cache moves none.
        """
        self._prepare(wanted, self.residents.only)

    def _prepare(self, wanted: Sequence[Wanted], bring: Callable[[list[Backbone]], None]) -> None:
        keyed = {self.entry(*w).key: w for w in map(_resolved, wanted)}

        def one_pass(item: tuple[str, Wanted]) -> str:
            _, split, request = item[1]
            return f"{split.fingerprint} {_pixels(request.transform)!r}"

        problems: list[str] = []
        for _, group in groupby(sorted(keyed.items(), key=one_pass), key=one_pass):
            # After one split has proved unusable the others are only looked through, so that one message says all.
            problems += self._fill([w for key, w in group if key not in self._complete], bring, not problems)
        if problems:
            raise UserError("; ".join(dict.fromkeys(problems)))

    def _fill(self, wanted: list[Wanted], bring: Callable[[list[Backbone]], None], compute: bool) -> list[str]:
        """Extract for entries that share images and pixels; every process does its part and all return together.

        Returns what is wrong with the images or features, the same on every process.
        """
        entries = [self.entry(*w) for w in wanted]
        split = wanted[0][1] if wanted else None
        with ExitStack() as held:

            def begin() -> list[int]:
                held.enter_context(locked(entries))
                self._held.update({entry.key: hold(entry) for entry in entries if entry.key not in self._held})
                lacking = [i for i, entry in enumerate(entries) if not self._usable(entry)]
                for i in lacking:
                    entries[i].create()
                    for wider in self._wider(*wanted[i]):
                        entries[i].take(wider)
                return lacking

            lacking = self.runtime.broadcast(self.runtime.run_on_first(begin)) or []
            if lacking:
                assert split is not None
                some = [wanted[i] for i in lacking], [entries[i] for i in lacking]
                # Said by the first process: others may look when it has begun to write.
                todo = self.runtime.broadcast(_todo(some[1]))
                if compute and len(todo):
                    bring([backbone for backbone, _, _ in some[0]])
                began = time.monotonic()
                self.runtime.run_on_all(lambda: self._extract(split, *some, todo, compute))
                if compute and self.runtime.rank == 0 and len({id(backbone) for backbone, _, _ in some[0]}) == 1:
                    (backbone, _, request), took = some[0][0], time.monotonic() - began
                    device = device_name(self.device)
                    pace.remember(backbone.info.arch, split, request.transform, len(todo), took, device)
                problems = self._problems(split, *some)
                self.runtime.barrier()  # nobody finishes an entry that another process still looks at
                if problems or not compute:
                    return problems
                self.runtime.run_on_first(partial(finish, some[1]))
            self._complete.update(entry.key for entry in entries)
            self.runtime.barrier()
        return []

    def _wider(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Iterator[Entry]:
        """The entries, whether they are there or not, that hold what is asked for among other things."""
        for layers in range(request.layers, max(backbone.info.depth or 1, request.layers) + 1):
            for mean_patches in {request.mean_patches, True}:
                if (layers, mean_patches) != (request.layers, request.mean_patches):
                    other = dataclasses.replace(request, layers=layers, mean_patches=mean_patches)
                    yield self.entry(backbone, split, other)

    def _usable(self, entry: Entry) -> bool:
        # Broken images are tried again: the file may have been out of reach rather than broken.
        return entry.complete() and not (entry.state() == BROKEN).any()

    def _problems(self, split: ImageSplit, wanted: list[Wanted], entries: list[Entry]) -> list[str]:
        """What is wrong with the images or the features; every process comes to the same verdict."""
        problems = []
        for (backbone, _, _), entry in zip(wanted, entries, strict=True):
            state = entry.state()
            broken = _ids(split, state == BROKEN)
            if message := unreadable(split.name, broken, len(state), self.skip_broken, load_by_id(split)):
                problems.append(message)
            if beyond := _ids(split, state == OUT_OF_RANGE):
                problems.append(str(out_of_range(backbone, beyond)))
        return problems

    def _extract(
        self, split: ImageSplit, wanted: list[Wanted], entries: list[Entry], todo: np.ndarray, compute: bool
    ) -> None:
        if len(todo) < len(split) and self.runtime.rank == 0 and len(todo):
            console.note(
                f"{split.name}: {len(split) - len(todo):,} of {len(split):,} images were done before; going on"
            )
        rows = todo[self.runtime.shard(len(todo))].tolist()
        transform = wanted[0][2].transform
        names = ", ".join(dict.fromkeys(w[0].info.name for w in wanted))
        broken: list[int] = []

        def load(row: int) -> np.ndarray:
            return np.asarray(transform(split.load(row)))

        def forward(images: list[np.ndarray]) -> list[torch.Tensor | None]:
            computed = self._computed(to_device(images, self.device), wanted)
            return [tensor for pair in computed for tensor in pair]

        with ExitStack() as stack:
            writers = [stack.enter_context(entry.writer()) for entry in entries]
            passes = forward_batches(
                self, rows, load, forward, batch=BATCH, key=lambda pixels: pixels.shape,
                broken=broken, looked_at_only=not compute, apart=True,
                watch=lambda decoded: console.progress(decoded, f"Extracting {split.name} with {names}", len(rows)),
            )  # fmt: skip
            flushed = time.monotonic()
            for batch, _, arrays in fetched(passes, self.device):
                pairs = zip(arrays[::2], arrays[1::2], strict=True)
                for computed, (_, _, request), writer in zip(pairs, wanted, writers, strict=True):
                    _write(writer, np.array(batch), computed, request)
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    for writer in writers:
                        writer.flush()
                    flushed = time.monotonic()
            for writer in writers:
                writer.mark(np.array(broken, int), np.full(len(broken), BROKEN, np.uint8))

    def _computed(self, pixels: torch.Tensor, wanted: list[Wanted]) -> list[OnDevice]:
        """The features of each request for one batch (B, 3, H, W) uint8; one forward pass serves all of a backbone."""
        seen: dict[str, torch.Tensor] = {}  # normalised, by the transform that did it
        done: dict[tuple[int, str], OnDevice] = {}
        keys = [(id(backbone), repr(request.transform)) for backbone, _, request in wanted]
        for key, (backbone, _, request) in zip(keys, wanted, strict=True):
            if key not in done:
                own = [request for other, (_, _, request) in zip(keys, wanted, strict=True) if other == key]
                widest = max(r.layers for r in own), any(r.mean_patches for r in own)
                if key[1] not in seen:
                    seen[key[1]] = request.transform.normalise(pixels)
                done[key] = features_on_device(backbone, seen[key[1]], *widest)
        return [done[key] for key in keys]


def _resolved(wanted: Wanted) -> Wanted:
    """The same, with the request as it is for this backbone and split."""
    backbone, split, request = wanted
    return backbone, split, fitted(request, backbone, split)


def _pixels(transform: Any) -> Any:
    """The transform up to its normalisation: models that differ in that alone share the decoded images."""
    return dataclasses.replace(transform, mean=None, std=None) if type(transform) is ImageTransform else transform


def _write(writer: Writer, rows: np.ndarray, computed: Computed, request: FeatureRequest) -> None:
    """Put the last blocks' features of a batch into their rows, and mark these as done, or as out of range."""
    good = np.ones(len(rows), bool)
    for array, features in zip(writer.arrays.values(), computed, strict=False):
        assert features is not None
        array[rows] = features[:, -request.layers :]
        good &= in_range(features[:, -request.layers :])
    writer.mark(rows, np.where(good, DONE, OUT_OF_RANGE).astype(np.uint8))


def compute_features(
    backbone: Backbone, x: torch.Tensor, layers: int, mean_patches: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """`features_on_device` as arrays."""
    cls, mean = features_on_device(backbone, x, layers, mean_patches)
    return cls.numpy(force=True), None if mean is None else mean.numpy(force=True)


def features_on_device(backbone: Backbone, x: torch.Tensor, layers: int, mean_patches: bool) -> OnDevice:
    """(B, 3, H, W) -> CLS (B, layers, D) and, if wanted, mean patch tokens of the same shape, oldest block first.

    Raises UnsupportedCapability when the backbone has no such thing.
    """
    if layers == 1 and not mean_patches:
        return backbone.features(x).float()[:, None], None
    if layers > 1 and "layers" not in backbone.capabilities:
        raise UnsupportedCapability(f"{backbone.info.name} ({backbone.info.arch}) has no features of several blocks")
    if mean_patches and "patches" not in backbone.capabilities:
        raise UnsupportedCapability(f"{backbone.info.name} ({backbone.info.arch}) has no patch tokens")
    blocks = backbone.layers(x, layers)
    cls = torch.stack([c for c, _ in blocks], dim=1).float()
    mean = torch.stack([p.mean(dim=1) for _, p in blocks], dim=1).float() if mean_patches else None
    return cls, mean


def _todo(entries: list[Entry]) -> np.ndarray:
    """The rows that any of the entries lacks."""
    return np.flatnonzero(np.logical_or.reduce([entry.state() != DONE for entry in entries]))


def _ids(split: ImageSplit, chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(split.ids[int(i)] for i in np.flatnonzero(chosen))
