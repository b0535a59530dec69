"""What `dinobench.dense.head_training` trains a depth head on: views augmented anew, or features extracted once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from dinobench.data.decoding import ram_budget
from dinobench.data.depth_maps import DepthSplit, pair
from dinobench.data.transforms import ImageTransform
from dinobench.dense.batches import AugmentedBatches, PairedImages
from dinobench.dense.depth.augment import DepthView, without_border
from dinobench.dense.depth.features import at_cells, normalised, to_pixels
from dinobench.dense.head_training import Batch
from dinobench.dense.reading import MapReader
from dinobench.errors import UserError
from dinobench.features.extraction import forward_batches, lost_images
from dinobench.training.sampler import Order
from dinobench.training.step_values import to_device
from dinobench.types import Context

#: Images per forward pass on a CPU, which gains nothing from more, and elsewhere.
BATCH = 4, 16


def view_batches(
    split: DepthSplit, view: DepthView, transform: ImageTransform, maps: MapReader, order: Order, rows: np.ndarray,
    ctx: Context,
) -> AugmentedBatches:  # fmt: skip
    """Random views of the images `rows`, which the order's numbers mean, with their depth (B, 1, H, W)."""

    def bands(index: int) -> np.ndarray:
        image, depth = pair(split, index)
        view.require_room(depth, f"{split.name}/{split.ids[index]}")
        return packed(np.asarray(image), depth)

    def augment(both: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return view(*unpacked(both), rng)

    def see(pixels: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return transform.normalise(pixels.to(ctx.device)), to_device(depth, ctx.device)

    rows_columns = 2 * view.crop[0], 2 * view.crop[1]  # with a border around the crop, which views lose
    blank = packed(np.zeros((*rows_columns, 3), np.uint8), np.zeros(rows_columns, np.float32))
    return AugmentedBatches(
        PairedImages(split, bands), augment, see, maps, order, blank, ctx, rows=rows,
        micro_batch=ctx.batch_size or BATCH[ctx.device.type != "cpu"],
    )  # fmt: skip


def packed(pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8 and depth (H, W) float32 -> (H, W, 7) uint8, as a loader keeps them."""
    return np.concatenate([pixels, np.ascontiguousarray(depth, np.float32)[..., None].view(np.uint8)], axis=2)


def unpacked(both: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The way back of `packed`.

    >>> unpacked(packed(np.full((1, 1, 3), 7, np.uint8), np.array([[1.5]])))[1].tolist()
    [[1.5]]
    """
    return np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3:]).view(np.float32)[..., 0]


class ExtractedBatches:
    """Features of whole images, computed once by all processes together, with depth at the centres of their cells.

    In memory and to the last bit, unlike those of a segmentation's windows: an image is a single map at half its size,
    and depth is a regression.
    """

    def __init__(
        self, split: DepthSplit, maps: MapReader, transform: ImageTransform, rows: np.ndarray, ctx: Context, *,
        batch: int, steps: int, scale: float, border: bool,
    ) -> None:  # fmt: skip
        self.ctx = ctx
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
            return maps(normalised([pixels for pixels, _ in loaded], transform, ctx.device))

        def work() -> None:
            passes = forward_batches(
                ctx, own, load, forward, batch=BATCH, key=lambda loaded: loaded[0].shape, broken=lost,
                watch=lambda decoded: ctx.progress(decoded, "Extracting train features", len(own)),
            )  # fmt: skip
            for _, loaded, found in passes:
                sizes.update(pixels.shape[1:] for pixels, _ in loaded)
                self._require_room(split.name, len(rows), found[0].nbytes)
                features.append(found.cpu().numpy())
                depths.extend(at_cells(depth, found.shape[-2:]) for _, depth in loaded)

        ctx.run_on_all(work)
        ids = [split.ids[row] for row in rows.tolist()]
        places = np.searchsorted(rows, lost).tolist()
        gone = lost_images(split.name, ids, places, lambda place: pair(split, int(rows[place])), ctx)
        self.broken = {ids[place] for place in gone}
        seen = {tuple(size) for size in ctx.gather(torch.tensor(sorted(sizes), dtype=torch.int64)).tolist()}
        if len(seen) > 1:
            (a, b), (c, d) = sorted(seen)[:2]
            raise UserError(
                f"{split.name}: images of {b} x {a} and of {d} x {c} pixels; features extracted once are of images of "
                "one size, use --set features=augmented"
            )
        empty = np.zeros(0, np.float32)
        self.features = ctx.gather(torch.from_numpy(np.concatenate(features) if features else empty))
        self.depth = ctx.gather(torch.from_numpy(np.stack(depths)[:, None] if depths else empty))
        self.order = Order(len(self.features), batch, ctx.seed, steps)

    def _require_room(self, name: str, images: int, each: int) -> None:
        room = ram_budget(self.ctx.ram_bytes, self.ctx.processes)
        if images * each > room:
            raise UserError(
                f"{name}: features of {images:,} images take {images * each / 1e9:.1f} GB of memory, above "
                f"{room / 1e9:.1f} GB; use --set train_images={room // each}, or --ram-cache"
            )

    def load(self, first: int) -> Iterator[Batch]:
        """As `Batches` says."""
        for step in range(first, self.order.steps):
            rows = torch.from_numpy(self.order(0, step)[0])
            yield Batch(*(to_device(x.index_select(0, rows), self.ctx.device) for x in (self.features, self.depth)))


def spread(n: int, wanted: int) -> np.ndarray:
    """`wanted` of n indices in order, as evenly as can be; all for 0 or more than there are.

    >>> spread(10, 4).tolist(), len(spread(10, 0))
    ([0, 2, 5, 7], 10)
    """
    return np.arange(n) if not 0 < wanted < n else np.arange(wanted) * n // wanted
