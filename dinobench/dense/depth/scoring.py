"""Scores of a depth head on test images at their own size."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from dinobench.algorithms.depth_head import DepthHead, to_labels
from dinobench.data.depth_maps import DepthSplit, depth_png, pair, png_name
from dinobench.data.transforms import ImageTransform
from dinobench.dense.depth.features import normalised, to_pixels
from dinobench.dense.reading import MapReader
from dinobench.features.extraction import forward_batches, lost_images, out_of_range
from dinobench.metrics.depth import NAMES, aligned, depth_scores
from dinobench.types import Context

#: Images per forward pass on a CPU, which gains nothing from more, and elsewhere.
BATCH = 1, 16


class Scorer:
    """Runs the test images through backbone and head, by all processes together."""

    def __init__(
        self,
        maps: MapReader,
        split: DepthSplit,
        transform: ImageTransform,
        scale: float,
        ctx: Context,
    ) -> None:
        self.maps, self.split, self.transform = maps, split, transform
        self.scale, self.ctx = scale, ctx

    def score(
        self, head: DepthHead, low: float, high: float, *, crop: str, clamp: str, flip_average: bool,
        align: bool = False, save: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Rows (n,) of the images that can be read and their scores (n, len(NAMES)), NaN where no pixel counts.

        `save` is what a metre is in the PNGs that are kept where the user asked for files. Raises UserError for images
        that cannot be read, unless they may be left out, and for features that are not finite.
        """
        ctx, split = self.ctx, self.split
        indices = range(len(split))[ctx.shard(len(split))]
        broken: list[int] = []
        head.eval()

        def load(index: int) -> tuple[np.ndarray, np.ndarray]:
            image, depth = pair(split, index)
            return to_pixels(image, self.scale), depth

        def forward(loaded: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
            x = normalised([pixels for pixels, _ in loaded], self.transform, ctx.device)
            seen = [self.maps(images) for images in ((x, x.flip(-1)) if flip_average else (x,))]
            return torch.cat(seen)

        def work() -> torch.Tensor:
            rows: list[list[float]] = []
            passes = forward_batches(
                ctx, indices, load, forward, batch=BATCH, broken=broken,
                key=lambda loaded: (loaded[0].shape, loaded[1].shape),
                watch=lambda decoded: ctx.progress(decoded, "Scoring depth", len(indices)),
            )  # fmt: skip
            for batch, loaded, features in passes:
                with torch.no_grad():
                    maps = head(features)
                    straight, mirrored = maps.chunk(2) if flip_average else (maps, None)
                    rows_columns = loaded[0][1].shape
                    depth = to_labels(straight, mirrored, rows_columns, low, high, clamp).cpu().numpy()
                if not np.isfinite(depth).all():
                    raise out_of_range(self.maps.backbone, [split.ids[index] for index in batch])
                for index, (_, truth), pred in zip(batch, loaded, depth, strict=True):
                    if save is not None and ctx.saves:
                        ctx.save(png_name(split.ids[index]), depth_png(pred, save))
                    if align:
                        pred = aligned(truth, pred, low, high, crop)
                    scores = depth_scores(truth, pred, low, high, crop)
                    rows.append([index, *(scores[name] for name in NAMES)])
            return torch.tensor(rows, dtype=torch.float64).reshape(-1, 1 + len(NAMES))

        table = ctx.gather(ctx.run_on_all(work))
        lost_images(split.name, split.ids, broken, partial(pair, split), ctx)
        table = table[table[:, 0].argsort()]
        return table[:, 0].long(), table[:, 1:]
