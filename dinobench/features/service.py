"""One extraction service for every protocol: features of images by backbones, cached by content.

What decides a feature is its key: the weights, how the backbone reads them, the transform, the images' contents, the
kind of feature and the precision. Wanted entries that agree on images and transform are filled in one pass over the
images, whatever number of backbones and protocols they belong to.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import PIL
import torch

from dinobench import console
from dinobench.data.decoding import BROKEN_IMAGE, decoding_threads
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.features.cache import BROKEN, DONE, NOT_FINITE, Entry, Writer, finish, locked
from dinobench.runtime import Runtime
from dinobench.types import Backbone, FeatureRequest, Features, ImageSplit

#: Raised when extraction computes anything differently: older entries are then never read again.
VERSION = 1
#: Seconds of work that a power cut may cost: rows are synchronised to disk this often.
FLUSH_SECONDS = 5.0
#: Broken images named in a message.
NAMED = 5

Wanted = tuple[Backbone, ImageSplit, FeatureRequest]


@dataclass(frozen=True)
class Batch:
    """Transformed images of one batch: `rows` (n,) of the split, `pixels` (m, 3, H, W) uint8 of the readable ones."""

    rows: np.ndarray
    readable: np.ndarray  # (n,) bool
    pixels: torch.Tensor | None

    @property
    def n(self) -> int:
        return len(self.rows)


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
        on_cpu = runtime.device.type == "cpu"
        self.runtime, self.root, self.skip_broken = runtime, root, skip_broken
        self.batch_size = batch_size or (32 if on_cpu else 256)
        self.workers = decoding_threads(workers)
        # Overlapping decoding with a forward pass pays only if the forward pass runs elsewhere: on a CPU, threads that
        # decode take the cores from under the ones that multiply, and both wait.
        self.ahead = 0 if on_cpu else 2
        self.broken: dict[str, tuple[str, ...]] = {}
        self._complete: set[str] = set()

    def get(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Features:
        """The features asked for; extracts what the cache lacks. Raises UserError for broken images."""
        self.prepare([(backbone, split, request)])
        entry = self.entry(backbone, split, request)
        state = entry.state()
        kept = np.flatnonzero(state == DONE)
        pick = slice(None) if len(kept) == len(state) else kept
        return Features(
            entry.read("cls")[pick],
            entry.read("mean_patches")[pick] if request.mean_patches else None,
            kept,
            _ids(split, state == BROKEN),
        )

    def entry(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Entry:
        """The cache entry of a request: everything that decides its numbers, and the shapes of its arrays."""
        info = backbone.info
        decides = ("arch", "patch_size", "embed_dim", "depth", "heads", "registers", "weights_digest", "missing")
        identity = {
            "version": VERSION,
            "backbone": {name: getattr(info, name) for name in decides},
            "transform": {"kind": type(request.transform).__name__, **dataclasses.asdict(request.transform)},
            "images": split.fingerprint,
            "count": len(split),
            "layers": request.layers,
            "mean_patches": request.mean_patches,
            "precision": self.runtime.precision,
            "torch": torch.__version__.split("+")[0],
            "pillow": PIL.__version__,
        }
        shape = (len(split), request.layers, backbone.embed_dim)
        kind = f"CLS of {request.layers} block(s)" + (", mean patches" if request.mean_patches else "")
        label = {"model": info.name, "arch": info.arch, "images": split.name, "features": kind}
        arrays = ("cls", "mean_patches") if request.mean_patches else ("cls",)
        return Entry(self.root, identity, label, dict.fromkeys(arrays, shape))

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Fill the cache with everything `wanted`, in one pass for each pair of images and transform."""
        keyed = {self.entry(*w).key: w for w in wanted}

        def one_pass(item: tuple[str, Wanted]) -> str:
            _, split, request = item[1]
            return f"{split.fingerprint} {request.transform!r}"

        problems: list[str] = []
        for _, group in groupby(sorted(keyed.items(), key=one_pass), key=one_pass):
            # After one split has proved unusable the others are only looked through, so that one message says all.
            problems += self._fill([w for key, w in group if key not in self._complete], compute=not problems)
        if problems:
            raise UserError("; ".join(dict.fromkeys(problems)))

    def _fill(self, wanted: list[Wanted], compute: bool) -> list[str]:
        """Extract for entries that share images and transform; every process does its part and all return together.

        Returns what is wrong with the images or features, the same on every process.
        """
        entries = [self.entry(*w) for w in wanted]
        split = wanted[0][1] if wanted else None
        with ExitStack() as held:

            def begin() -> list[int]:
                held.enter_context(locked(entries))
                lacking = [i for i, entry in enumerate(entries) if not self._usable(entry)]
                for i in lacking:
                    entries[i].create()
                return lacking

            lacking = self.runtime.broadcast(self.runtime.run_on_first(begin)) or []
            if lacking:
                assert split is not None
                some = [wanted[i] for i in lacking], [entries[i] for i in lacking]
                self.runtime.run_on_all(lambda: self._extract(split, *some, compute))
                problems = self._problems(split, *some)
                self.runtime.barrier()  # nobody finishes an entry that another process still looks at
                if problems or not compute:
                    return problems
                self.runtime.run_on_first(partial(finish, some[1]))
            self._complete.update(entry.key for entry in entries)
            self.runtime.barrier()
        return []

    def _usable(self, entry: Entry) -> bool:
        # Broken images are tried again: the file may have been out of reach rather than broken.
        return entry.complete() and not (entry.state() == BROKEN).any()

    def _problems(self, split: ImageSplit, wanted: list[Wanted], entries: list[Entry]) -> list[str]:
        """What is wrong with the images or the features; every process comes to the same verdict."""
        found = []
        for (backbone, _, _), entry in zip(wanted, entries, strict=True):
            state = entry.state()
            broken = _ids(split, state == BROKEN)
            self.broken[split.fingerprint] = broken
            if len(broken) == len(state):
                found.append(f"none of the {len(state):,} images of {split.name} can be read: {_named(broken)}")
            elif broken and not self.skip_broken:
                found.append(
                    f"{len(broken)} of {len(state):,} images of {split.name} cannot be read: {_named(broken)}; "
                    "repair or delete them, or leave them out with --skip-broken"
                )
            if bad := _ids(split, state == NOT_FINITE):
                found.append(
                    f"{backbone.info.name}: features of {len(bad)} images are not finite: {_named(bad)}; "
                    "the weights overflow in this precision (try --precision 32) or are damaged"
                )
        return found

    def _extract(self, split: ImageSplit, wanted: list[Wanted], entries: list[Entry], compute: bool) -> None:
        todo = np.flatnonzero(np.logical_or.reduce([entry.state() != DONE for entry in entries]))
        if len(todo) < len(split) and self.runtime.rank == 0 and len(todo):
            console.note(
                f"{split.name}: {len(split) - len(todo):,} of {len(split):,} images were done before; going on"
            )
        batches = [todo[i : i + self.batch_size] for i in range(0, len(todo), self.batch_size)]
        mine = batches[self.runtime.rank :: self.runtime.processes]
        loader = self._load(split, wanted[0][2], mine)
        flushed = time.monotonic()
        names = ", ".join(dict.fromkeys(w[0].info.name for w in wanted))
        with ExitStack() as stack:
            writers = [stack.enter_context(entry.writer()) for entry in entries]
            total = sum(map(len, mine))
            for batch in console.progress(loader, f"Extracting {split.name} with {names}", total):
                # After the first broken image the run cannot succeed: the rest is only looked at, to name them all.
                compute = compute and (self.skip_broken or bool(batch.readable.all()))
                self._write(batch, wanted, writers, compute)
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    for writer in writers:
                        writer.flush()
                    flushed = time.monotonic()

    def _write(self, batch: Batch, wanted: list[Wanted], writers: list[Writer], compute: bool) -> None:
        good = batch.rows[batch.readable]
        broken = batch.rows[~batch.readable]
        computed: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
        for (backbone, _, request), writer in zip(wanted, writers, strict=True):
            writer.mark(broken, np.full(len(broken), BROKEN, np.uint8))
            if not compute or batch.pixels is None:
                continue
            if id(backbone) not in computed:  # one forward pass serves all requests of a backbone
                own = [w[2] for w in wanted if w[0] is backbone]
                widest = max(r.layers for r in own), any(r.mean_patches for r in own)
                x = request.transform.normalise(batch.pixels.to(self.runtime.device))
                with self.runtime.inference():
                    computed[id(backbone)] = compute_features(backbone, x, *widest)
            cls, mean = computed[id(backbone)]
            values = {"cls": cls, "mean_patches": mean}
            finite = np.ones(len(good), bool)
            for name, array in writer.arrays.items():
                value = values[name]
                assert value is not None
                array[good] = value[:, -request.layers :]
                finite &= np.isfinite(value[:, -request.layers :]).all(axis=(1, 2))
            writer.mark(good, np.where(finite, DONE, NOT_FINITE).astype(np.uint8))

    def _load(self, split: ImageSplit, request: FeatureRequest, batches: list[np.ndarray]) -> Iterator[Batch]:
        """Decode and transform in threads (PIL lets go of Python's lock), `ahead` batches before they are needed."""

        def pixels(row: int) -> np.ndarray | None:
            try:
                return np.asarray(request.transform(split.load(row)))
            except BROKEN_IMAGE:
                return None

        with ThreadPoolExecutor(self.workers) as pool:
            queue: list[tuple[np.ndarray, list[Future[np.ndarray | None]]]] = []
            for position in range(len(batches) + self.ahead):
                if position < len(batches):
                    rows = batches[position]
                    queue.append((rows, [pool.submit(pixels, int(row)) for row in rows]))
                if len(queue) > self.ahead or position >= len(batches):
                    rows, futures = queue.pop(0)
                    images = [f.result() for f in futures]
                    readable = np.array([image is not None for image in images])
                    stack = [image for image in images if image is not None]
                    yield Batch(rows, readable, torch.from_numpy(np.stack(stack)) if stack else None)


def compute_features(
    backbone: Backbone, x: torch.Tensor, layers: int, mean_patches: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """(B, 3, H, W) -> CLS (B, layers, D) and, if wanted, mean patch tokens of the same shape, oldest block first.

    Raises UnsupportedCapability when the backbone has no such thing.
    """
    if layers == 1 and not mean_patches:
        return backbone.features(x).float().cpu().numpy()[:, None], None
    if layers > 1 and "layers" not in backbone.capabilities:
        raise UnsupportedCapability(f"{backbone.info.name} ({backbone.info.arch}) has no features of several blocks")
    if mean_patches and "patches" not in backbone.capabilities:
        raise UnsupportedCapability(f"{backbone.info.name} ({backbone.info.arch}) has no patch tokens")
    blocks = backbone.layers(x, layers)
    cls = torch.stack([c for c, _ in blocks], dim=1).float().cpu().numpy()
    mean = torch.stack([p.mean(dim=1) for _, p in blocks], dim=1).float().cpu().numpy() if mean_patches else None
    return cls, mean


def _ids(split: ImageSplit, chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(split.ids[int(i)] for i in np.flatnonzero(chosen))


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more
