"""Label propagation by nearest patches in a window, without the dense affinity matrix.

The published recipe (Jabri et al. 2020, arXiv 2006.14613; Caron et al. 2021, arXiv 2104.14294) multiplies every patch of
up to eight context frames with every patch of the next frame, then throws away all but a 25 x 25 window and, of that, all
but the five largest. Here the frame is cut into tiles: a tile of queries meets only the rows and columns its windows
reach, and the five largest are found through the maximum over the context frames, an eighth of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch.nn import functional as F

# Queries per tile: larger tiles multiply faster but compute more outside the windows (tuned on CPU at 480p, patch 8, 16).
TILE_ROWS, TILE_COLUMNS = 8, 16


class Propagator:
    """Carries soft masks (C, H, W) from a first frame to the next ones, frame by frame.

    Every frame is a grid of H x W feature vectors. Its soft mask is the weighted mean of its nearest context patches'
    soft masks: context are the first frame and the `context` frames before it, nearest are the `top_k` largest cosines
    within `window` rows and columns (ties with the last of them included), weights are exp(cosine / temperature).
    """

    def __init__(
        self,
        features: torch.Tensor,
        masks: torch.Tensor,
        *,
        context: int = 7,
        window: int = 12,
        top_k: int = 5,
        temperature: float = 0.1,
    ) -> None:
        """Start from the first frame's features (H, W, D) and one-hot or soft masks (C, H, W)."""
        self.window, self.top_k, self.temperature = window, top_k, temperature
        height, width, dim = features.shape
        # slot 0 holds the first frame for good, the others are written in turn: the order never enters the sum
        self._keys = features.new_zeros(context + 1, height, width, dim)
        self._values = masks.new_zeros(context + 1, height * width, len(masks))
        self._keys[0] = F.normalize(features, dim=-1)
        self._values[0] = masks.flatten(1).T
        self._seen = 1

    def step(self, features: torch.Tensor) -> torch.Tensor:
        """The next frame's features (H, W, D) -> its soft masks (C, H, W)."""
        slots, height, width, _ = self._keys.shape
        queries = F.normalize(features, dim=-1)
        used = min(self._seen, slots)
        keys, values = self._keys[:used], self._values[:used]
        masks = torch.empty(height, width, values.shape[-1], dtype=values.dtype, device=values.device)
        for rows in _spans(height, TILE_ROWS):
            for columns in _spans(width, TILE_COLUMNS):
                masks[rows, columns] = self._tile(queries, keys, values, rows, columns)
        if slots > 1:
            slot = 1 + (self._seen - 1) % (slots - 1)
            self._keys[slot], self._values[slot] = queries, masks.flatten(0, 1)
        self._seen += 1
        return masks.permute(2, 0, 1)

    def _tile(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: slice, columns: slice
    ) -> torch.Tensor:
        """Soft masks (rows, columns, C) of one tile; keys (T, H, W, D), values (T, H * W, C)."""
        frames, height, width, dim = keys.shape
        band = slice(max(rows.start - self.window, 0), min(rows.stop + self.window, height))
        span = slice(max(columns.start - self.window, 0), min(columns.stop + self.window, width))
        tile = queries[rows, columns].reshape(-1, dim)
        reach = keys[:, band, span]
        near_width = reach.shape[2]
        cosines = tile @ reach.reshape(-1, dim).T  # (Q, T * P), P positions within reach of the tile
        cosines = cosines.view(len(tile), frames, -1)
        outside = _outside(
            rows.start - band.start,
            columns.start - span.start,
            (rows.stop - rows.start, columns.stop - columns.start),
            (reach.shape[1], near_width),
            self.window,
            keys.device,
        )
        best = cosines.amax(dim=1).add_(outside)  # (Q, P): the largest over the context frames, -inf off the window
        positions, kept = self._nearest(cosines, best)
        where = (positions // near_width + band.start) * width + positions % near_width + span.start
        weights = kept.div_(self.temperature).softmax(dim=-1)  # (Q, T * G)
        candidates = values[:, where].permute(1, 0, 2, 3).flatten(1, 2)  # (Q, T * G, C)
        masks = (weights[:, None] @ candidates)[:, 0]
        return masks.view(rows.stop - rows.start, columns.stop - columns.start, -1)

    def _nearest(self, cosines: torch.Tensor, best: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (Q, G) that hold every kept entry, and their cosines (Q, T * G), -inf where not kept.

        The k largest of all entries lie at the k positions with the largest `best`. One position more shows whether a
        tie goes on beyond them; then more are looked at.
        """
        queries, frames, total = cosines.shape
        asked = min(self.top_k + 1, total)
        while True:
            top = best.topk(asked, dim=1)
            entries = cosines.gather(2, top.indices[:, None].expand(-1, frames, -1))
            entries = entries.masked_fill_((top.values == -math.inf)[:, None], -math.inf).flatten(1)
            threshold = entries.topk(min(self.top_k, entries.shape[1]), dim=1).values[:, -1:]
            if asked == total or not bool(((top.values[:, -1:] >= threshold) & (threshold > -math.inf)).any()):
                return top.indices, entries.masked_fill_(entries < threshold, -math.inf)
            asked = min(2 * asked, total)


def _spans(length: int, most: int) -> Iterator[slice]:
    """Near-equal spans of at most `most` covering 0..length."""
    parts = -(-length // most)
    cuts = [round(i * length / parts) for i in range(parts + 1)]
    return (slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True))


@lru_cache(maxsize=256)
def _outside(
    top: int, left: int, tile: tuple[int, int], reach: tuple[int, int], window: int, device: torch.device
) -> torch.Tensor:
    """(Q, P) float32: 0 where a position of the reached region is in a query's window, -inf where it is not.

    `top` and `left`: where the tile lies in the region; `tile` and `reach`: their (rows, columns).
    """
    axes = []
    for offset, queries, positions in ((top, tile[0], reach[0]), (left, tile[1], reach[1])):
        gap = torch.arange(positions)[None] - (torch.arange(queries)[:, None] + offset)
        axes.append(gap.abs() <= window)
    inside = axes[0][:, None, :, None] & axes[1][None, :, None, :]
    bias = torch.zeros(inside.shape).masked_fill_(~inside, -math.inf)
    return bias.flatten(2).flatten(0, 1).to(device)


def propagate(
    features: Iterable[torch.Tensor], masks: torch.Tensor, **settings: float
) -> Iterator[torch.Tensor]:
    """Soft masks (C, H, W) of every frame after the first, from the frames' features (H, W, D) in order.

    `masks` (C, H, W) are the first frame's; `settings` are those of `Propagator`.
    """
    frames = iter(features)
    propagator = Propagator(next(frames), masks, **settings)  # type: ignore[arg-type]
    for frame in frames:
        yield propagator.step(frame)
