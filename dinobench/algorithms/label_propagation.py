"""Label propagation by nearest patches in a window, without the dense affinity matrix.

The published recipe (Jabri et al. 2020, arXiv 2006.14613; Caron et al. 2021, arXiv 2104.14294; Siméoni et al. 2025,
arXiv 2508.10104, with a circle for the window) multiplies every patch of up to eight context frames with every patch
of the next frame, then throws away all but a 25 x 25 window and, of that, all but the five largest. Here the frame is
cut into tiles: a tile of queries meets only the rows and columns its windows reach, and the five largest are found
through the maximum over the context frames, an eighth of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch.nn import functional as F

# Keys lie in strips this many columns wide, each contiguous down the frame, so that any rectangle of them multiplies
# without being copied first. Tiles are whole strips wide. Larger tiles compute more outside the windows, smaller ones
# multiply less efficiently (sizes tuned on CPU at 480p, patch 8 and 16).
STRIP = 4
TILE_ROWS, TILE_STRIPS = 10, 2


class Propagator:
    """Carries soft masks (C, H, W) from a first frame to the next ones, frame by frame.

    Every frame is a grid of H x W feature vectors. Its soft mask is the weighted mean of its nearest context patches'
    soft masks: context are the first frame and the `context` frames before it, nearest are the `top_k` largest cosines
    within `window` rows and columns, or with `circle` within that distance (ties with the last of them included),
    weights are exp(cosine / temperature).
    """

    def __init__(
        self,
        features: torch.Tensor,
        masks: torch.Tensor,
        *,
        context: int = 7,
        window: int = 12,
        circle: bool = False,
        top_k: int = 5,
        temperature: float = 0.1,
    ) -> None:
        """Start from the first frame's features (H, W, D) and one-hot or soft masks (C, H, W)."""
        self.window, self.circle, self.top_k, self.temperature = window, circle, top_k, temperature
        height, self.width, dim = features.shape
        #: A GPU is asked once a frame whether there were ties; a CPU does not hold all tiles' cosines for that.
        self.tiles_at_once = 1 if features.device.type == "cpu" else height * self.width
        strips = -(-self.width // STRIP)
        # Slot 0 holds the first frame for good, the others are written in turn: the order never enters the sum.
        self._keys = features.new_zeros(strips, context + 1, height, STRIP, dim)
        self._values = masks.new_zeros(strips, context + 1, height, STRIP, len(masks))
        self._seen = 0
        self._remember(F.normalize(features, dim=-1), masks.permute(1, 2, 0))

    @torch.no_grad()
    def step(self, features: torch.Tensor) -> torch.Tensor:
        """The next frame's features (H, W, D) -> its soft masks (C, H, W)."""
        height = self._keys.shape[2]
        queries = F.normalize(features, dim=-1)
        masks = queries.new_empty(height, self.width, self._values.shape[-1])
        tiles: list[_Tile] = []
        for rows in _spans(height, TILE_ROWS):
            for start in range(0, self.width, TILE_STRIPS * STRIP):
                columns = slice(start, min(start + TILE_STRIPS * STRIP, self.width))
                tiles.append(self._tile(queries[rows, columns], _Place(rows, columns)))
                if len(tiles) == self.tiles_at_once:
                    self._fill(masks, tiles)
                    tiles = []
        self._fill(masks, tiles)
        self._remember(queries, masks)
        return masks.permute(2, 0, 1)

    def _remember(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put a frame's normalised keys (H, W, D) and soft masks (H, W, C) in the slot of the oldest one."""
        slots = self._keys.shape[1]
        slot = self._seen if self._seen < slots else 1 + (self._seen - 1) % max(slots - 1, 1)
        self._seen += 1
        if slot >= slots:
            return  # no context beyond the first frame
        padding = (0, 0, 0, -self.width % STRIP)
        for store, new in ((self._keys, keys), (self._values, values)):
            padded = F.pad(new, padding)
            store[:, slot] = padded.view(len(padded), -1, STRIP, padded.shape[-1]).transpose(0, 1)

    def _tile(self, queries: torch.Tensor, place: _Place) -> _Tile:
        """The cosines of one tile's queries (rows, columns, D) with the context."""
        strips, slots, height, _, dim = self._keys.shape
        frames = min(self._seen, slots)
        band = slice(max(place.rows.start - self.window, 0), min(place.rows.stop + self.window, height))
        first = max(place.columns.start - self.window, 0) // STRIP
        last = min(-(-(place.columns.stop + self.window) // STRIP), strips)
        keys = self._keys[first:last, :frames, band].reshape((last - first) * frames, -1, dim)
        tile = queries.reshape(1, -1, dim).expand(len(keys), -1, -1)
        # S strips, T frames, Q queries, P positions of the band in one strip
        cosines = torch.bmm(tile, keys.transpose(1, 2)).view(last - first, frames, -1, keys.shape[1])
        outside = _outside(place, band, first, last, self.window, self.circle, self.width, queries.device)
        best = cosines.amax(dim=1).add_(outside)  # (S, Q, P): -inf where a position is not in a query's window
        return _Tile(place, band, first, cosines, best.transpose(0, 1).flatten(1))

    def _fill(self, masks: torch.Tensor, tiles: list[_Tile]) -> None:
        """Write the soft masks of some tiles into those of the frame (H, W, C).

        The k largest of all entries lie at the k positions with the largest `best`. One position more shows whether a
        tie goes on beyond them; then more are looked at. Whether there are such ties is read of all tiles at once.
        """
        asked = self.top_k + 1
        while tiles:
            tied = [self._write(masks, tile, min(asked, tile.best.shape[1])) for tile in tiles]
            again = torch.stack(tied).tolist()
            tiles = [t for t, more in zip(tiles, again, strict=True) if more and asked < t.best.shape[1]]
            asked *= 2

    def _write(self, masks: torch.Tensor, tile: _Tile, asked: int) -> torch.Tensor:
        """Write a tile's masks from the `asked` best positions; returns whether ties may go on beyond, a scalar."""
        top, entries, tied = self._nearest(tile.cosines, tile.best, asked)
        width = tile.cosines.shape[3]
        strip, within = top // width, top % width
        weights = entries.div_(self.temperature).softmax(dim=-1)  # (Q, T * G)
        frames = tile.cosines.shape[1]
        at = within + tile.band.start * STRIP
        values = self._values.flatten(2, 3)[strip + tile.first, :frames, at]  # (Q, G, T, C)
        target = masks[tile.place.rows, tile.place.columns]
        target.copy_((weights[:, None] @ values.transpose(1, 2).flatten(1, 2)).view(target.shape))
        return tied

    def _nearest(
        self, cosines: torch.Tensor, best: torch.Tensor, asked: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(S, T, Q, P), (Q, S * P) -> of the `asked` best positions (Q, G) the cosines (Q, T * G), -inf where smaller
        than the k-th largest, and whether a tie with it may lie elsewhere, a scalar."""
        _, frames, queries, width = cosines.shape
        query = torch.arange(queries, device=best.device)[:, None, None]
        frame = torch.arange(frames, device=best.device)[None, :, None]
        top = best.topk(asked, dim=1)
        strip, within = (top.indices // width)[:, None], (top.indices % width)[:, None]
        entries = cosines[strip, frame, query, within]  # (Q, T, G)
        entries = entries.masked_fill_((top.values == -math.inf)[:, None], -math.inf).flatten(1)
        threshold = entries.topk(min(self.top_k, entries.shape[1]), dim=1).values[:, -1:]
        tied = (top.values[:, -1:] >= threshold) & (threshold > -math.inf)
        return top.indices, entries.masked_fill_(entries < threshold, -math.inf), tied.any()


class _Tile(NamedTuple):
    """Queries of one rectangle and what they meet: `cosines` (S, T, Q, P), `best` (Q, S * P) over the frames."""

    place: _Place
    band: slice
    first: int
    cosines: torch.Tensor
    best: torch.Tensor


class _Place(NamedTuple):
    """Where a tile lies in the grid."""

    rows: slice
    columns: slice


def _spans(length: int, most: int) -> Iterator[slice]:
    """Near-equal spans of at most `most` covering 0..length."""
    parts = -(-length // most)
    cuts = [round(i * length / parts) for i in range(parts + 1)]
    return (slice(a, b) for a, b in pairwise(cuts))


def _outside(
    place: _Place, band: slice, first: int, last: int, window: int, circle: bool, width: int, device: torch.device
) -> torch.Tensor:
    """(S, Q, P) float32: 0 where a position of strips `first` to `last` and rows `band` is in a query's window."""
    rows, columns = place
    # in coordinates relative to the band and the first strip there are few distinct ones
    return _outside_relative(
        (rows.start - band.start, rows.stop - band.start),
        (columns.start - first * STRIP, columns.stop - first * STRIP),
        (band.stop - band.start, last - first),
        min(width - first * STRIP, (last - first) * STRIP),
        window,
        circle,
        device,
    )


@lru_cache(maxsize=256)
def _outside_relative(
    rows: tuple[int, int],
    columns: tuple[int, int],
    reach: tuple[int, int],
    width: int,
    window: int,
    circle: bool,
    device: torch.device,
) -> torch.Tensor:
    height, strips = reach
    row, column = torch.arange(*rows), torch.arange(*columns)
    key_row, key_column = torch.arange(height), torch.arange(strips * STRIP).view(strips, STRIP)
    down = (key_row[None] - row[:, None]).abs()[None, :, None, :, None]  # (1, query rows, 1, key rows, 1)
    along = (key_column[:, None] - column[None, :, None]).abs()[:, None, :, None, :]  # (S, 1, columns, 1, STRIP)
    inside = down**2 + along**2 <= window**2 if circle else (down <= window) & (along <= window)
    inside &= (key_column < width)[:, None, None, None, :]
    bias = torch.zeros(inside.shape).masked_fill_(~inside, -math.inf)
    return bias.reshape(strips, len(row) * len(column), height * STRIP).to(device)


def propagate(features: Iterable[torch.Tensor], masks: torch.Tensor, **settings: float) -> Iterator[torch.Tensor]:
    """Soft masks (C, H, W) of every frame after the first, from the frames' features (H, W, D) in order.

    `masks` (C, H, W) are the first frame's; `settings` are those of `Propagator`.
    """
    frames = iter(features)
    propagator = Propagator(next(frames), masks, **settings)  # type: ignore[arg-type]
    for frame in frames:
        yield propagator.step(frame)
