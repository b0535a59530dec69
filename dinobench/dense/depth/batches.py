"""Features and depth of every step of a training, from images augmented anew or from features extracted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from dinobench.data.decoding import ram_budget, why_unreadable
from dinobench.data.depth_maps import DepthSplit, pair
from dinobench.data.transforms import ImageTransform
from dinobench.dense.depth.augment import DepthView, without_border
from dinobench.dense.depth.features import Reading, at_cells, normalised, to_pixels
from dinobench.distributed import gather_rows
from dinobench.errors import UserError
from dinobench.features.extraction import UNREADABLE, forward_batches, lost_images
from dinobench.training.step_values import to_device
from dinobench.types import Backbone, Context

#: Images per forward pass on a CPU, which gains nothing from more, and elsewhere.
BATCH = 4, 16
#: The step's number, features (B, C, h, w) and depth (B, 1, H, W) on the device, of the whole batch.
Step = tuple[int, torch.Tensor, torch.Tensor]


class Batches(Protocol):
    """`broken` are the ids of images that could not be read and are left out."""

    broken: set[str]

    def load(self, first: int, steps: int) -> Iterator[Step]:
        """Steps `first` to `steps` of the training, the same whatever `first` is."""
        ...


class Draws:
    """Which image the i-th draw of a training is: passes over n images, each in an order of its own."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        # loading threads ask at once, which a cache of functools stands
        self._order = lru_cache(maxsize=4)(lambda number: np.random.default_rng((seed, number)).permutation(n))

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """(image, pass)."""
        number, place = divmod(draw, self.n)
        return int(self._order(number)[place]), number


class ViewBatches:
    """Images augmented anew in each pass; each process computes its share's features and all hand theirs round."""

    def __init__(
        self, backbone: Backbone, split: DepthSplit, reading: Reading, transform: ImageTransform, ctx: Context, *,
        batch: int, view: DepthView, images: int = 0,
    ) -> None:  # fmt: skip
        self.backbone, self.split, self.reading, self.transform, self.ctx = backbone, split, reading, transform, ctx
        self.batch, self.view = batch, view
        self.rows = spread(len(split), images)
        self.draws = Draws(len(self.rows), ctx.seed)
        self.broken: set[str] = set()

    def load(self, first: int, steps: int) -> Iterator[Step]:
        """As `Batches` says. Raises UserError naming an image that cannot be read, unless it may be left out."""
        ctx, own = self.ctx, range(self.batch)[self.ctx.shard(self.batch)]
        wanted = _Wanted(first, steps, self.batch, own)
        aligned = _Aligned(ctx, len(own))
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        loaded = 0
        for draws, _, part in forward_batches(aligned, wanted, self._load, self._forward, batch=BATCH):
            parts.append(part)
            loaded += len(draws)
            if loaded % len(own) == 0:
                features, depth = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
                parts = []
                if ctx.processes > 1:
                    features, depth = gather_rows(features), gather_rows(depth)
                yield draws[-1] // self.batch, features, depth

    def _load(self, draw: int) -> tuple[np.ndarray, np.ndarray] | str:
        place, number = self.draws[draw]
        row = int(self.rows[place])
        name = self.split.ids[row]
        try:
            image, depth = pair(self.split, row)
            rng = np.random.default_rng((self.ctx.seed, number, row))
            return self.view(np.asarray(image), depth, rng, f"{self.split.name}/{name}")
        except UNREADABLE:
            if not self.ctx.skip_broken:
                why = why_unreadable(lambda: pair(self.split, row))
                raise UserError(
                    f"{name} of {self.split.name} cannot be read{f' ({why})' if why else ''}; repair or delete it, or "
                    "use --skip-broken"
                ) from None
            return name  # its place in the batch stays empty, so that the other images keep theirs

    def _forward(self, loaded: list[tuple[np.ndarray, np.ndarray] | str]) -> tuple[torch.Tensor, torch.Tensor]:
        good = [views for views in loaded if not isinstance(views, str)]
        self.broken.update(name for name in loaded if isinstance(name, str))
        device = self.ctx.device
        rows, columns = self.view.crop
        # an image of zeros where none is left tells the shape that nothing has
        images = [pixels for pixels, _ in good] or [np.zeros((3, rows, columns), np.float32)]
        features = self.reading(self.backbone, normalised(images, self.transform, device))[: len(good)]
        depth = np.stack([d for _, d in good]) if good else np.zeros((0, 1, rows, columns), np.float32)
        return features, to_device(torch.from_numpy(depth), device)


class ExtractedBatches:
    """Features of whole images, computed once by all processes together, with depth at the centres of their cells."""

    def __init__(
        self, backbone: Backbone, split: DepthSplit, reading: Reading, transform: ImageTransform, ctx: Context, *,
        batch: int, scale: float, border: bool, images: int = 0,
    ) -> None:  # fmt: skip
        self.ctx, self.batch = ctx, batch
        rows = spread(len(split), images)
        own = rows[ctx.shard(len(rows))].tolist()
        lost: list[int] = []
        features: list[np.ndarray] = []
        depths: list[np.ndarray] = []
        sizes: set[tuple[int, int]] = set()

        def load(row: int) -> tuple[np.ndarray, np.ndarray]:
            image, depth = pair(split, row)
            if border:
                image, depth = Image.fromarray(without_border(np.asarray(image))), without_border(depth)
            return to_pixels(image, scale), depth

        def forward(loaded: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
            return reading(backbone, normalised([pixels for pixels, _ in loaded], transform, ctx.device))

        def work() -> None:
            passes = forward_batches(
                ctx, own, load, forward, batch=BATCH, key=lambda loaded: loaded[0].shape, broken=lost,
                watch=lambda decoded: ctx.progress(decoded, "Extracting train features", len(own)),
            )  # fmt: skip
            for _, loaded, maps in passes:
                sizes.update(pixels.shape[1:] for pixels, _ in loaded)
                self._require_room(split.name, len(rows), maps[0].nbytes)
                features.append(maps.cpu().numpy())
                depths.extend(at_cells(depth, maps.shape[-2:]) for _, depth in loaded)

        ctx.run_on_all(work)
        ids = [split.ids[row] for row in rows.tolist()]
        places = np.searchsorted(rows, lost).tolist()
        gone = lost_images(split.name, ids, places, lambda place: pair(split, int(rows[place])), ctx)
        self.broken = {ids[place] for place in gone}
        found = {tuple(size) for size in ctx.gather(torch.tensor(sorted(sizes), dtype=torch.int64)).tolist()}
        if len(found) > 1:
            (a, b), (c, d) = sorted(found)[:2]
            raise UserError(
                f"{split.name}: images of {b} x {a} and of {d} x {c} pixels; features extracted once are of images of "
                "one size, use --set features=augmented"
            )
        empty = np.zeros(0, np.float32)
        self.features = ctx.gather(torch.from_numpy(np.concatenate(features) if features else empty))
        self.depth = ctx.gather(torch.from_numpy(np.stack(depths)[:, None] if depths else empty))
        self.draws = Draws(len(self.features), ctx.seed)

    def _require_room(self, name: str, images: int, each: int) -> None:
        room = ram_budget(self.ctx.ram_bytes, self.ctx.processes)
        if images * each > room:
            raise UserError(
                f"{name}: features of {images:,} images take {images * each / 1e9:.1f} GB of memory, above "
                f"{room / 1e9:.1f} GB; use --set train_images={room // each}, or --ram-cache"
            )

    def load(self, first: int, steps: int) -> Iterator[Step]:
        """As `Batches` says."""
        for step in range(first, steps):
            rows = torch.tensor([self.draws[step * self.batch + i][0] for i in range(self.batch)])
            parts = (to_device(x.index_select(0, rows), self.ctx.device) for x in (self.features, self.depth))
            features, depth = parts
            yield step, features, depth


def spread(n: int, wanted: int) -> np.ndarray:
    """`wanted` of n indices in order, as evenly as can be; all for 0 or more than there are.

    >>> spread(10, 4).tolist(), len(spread(10, 0))
    ([0, 2, 5, 7], 10)
    """
    return np.arange(n) if not 0 < wanted < n else np.arange(wanted) * n // wanted


class _Wanted(Sequence[int]):
    """The draws of this process, step by step, without a list of them."""

    def __init__(self, first: int, steps: int, batch: int, own: range) -> None:
        self.first, self.steps, self.batch, self.own = first, steps - first, batch, own

    def __len__(self) -> int:
        return self.steps * len(self.own)

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < len(self):
            raise IndexError(at)
        step, place = divmod(at, len(self.own))
        return (self.first + step) * self.batch + self.own[place]


class _Aligned:
    """A context's `Compute` whose forward passes end where steps do, so that resuming repeats the very same ones."""

    def __init__(self, ctx: Context, share: int) -> None:
        most = min(share, ctx.batch_size or BATCH[ctx.device.type != "cpu"])
        self.batch_size = next(size for size in range(most, 0, -1) if share % size == 0)
        self.device, self.workers, self.skip_broken, self._ctx = ctx.device, ctx.workers, ctx.skip_broken, ctx

    def inference(self) -> AbstractContextManager[None]:
        return self._ctx.inference()
