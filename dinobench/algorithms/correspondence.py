"""Where in another image a point is: arg max of cosines over patches, over pixels, and between two surfaces.

A bilinearly upsampled feature map of D channels is a thousand times the scores that it is made for, and no score needs
it: the vector at a pixel is v = sum of w_i f_i over four patches, so that its product with a query is the same sum of
the patches' products, and |v|^2 the sum of w_i w_j (f_i f_j). The search goes over patches first: as the weights sum to
1, no pixel of a cell between four patches has a cosine above their largest product over the least norm that the
(f_i f_j) allow, and only cells that this leaves in the race are looked into pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

#: Cosines nearer than this are one: half a patch along the borders has one vector, and the first pixel of it wins.
TIE = 1e-9
#: The least norm that a vector is divided by, as in torch's `normalize`.
LEAST = 1e-12
#: Pixels whose scores are held at once.
PIXELS = 1 << 20
#: Cosines held at once where two surfaces are matched.
COSINES = 1 << 24


class Axis(NamedTuple):
    """A bilinear resize, corners not aligned, along one axis: of each output pixel its input `low`, the next's weight.

    `start` (cells + 1,) is where the pixels begin that have each input as their `low`.
    """

    low: torch.Tensor
    weight: torch.Tensor
    start: torch.Tensor


def axis(inputs: int, outputs: int, device: torch.device | str = "cpu") -> Axis:
    """As torch's `interpolate(mode="bilinear")` places the pixels, in its float32.

    Past the last input's centre the weight of the next is 0, which changes nothing and makes equal vectors equal.
    """
    scale = torch.tensor(inputs / outputs, dtype=torch.float32)
    place = (scale * (torch.arange(outputs, dtype=torch.float32) + 0.5) - 0.5).clamp_min(0)
    low = place.floor().clamp_max(inputs - 1)
    weight = torch.where(low < inputs - 1, place - low, 0.0)
    start = torch.searchsorted(low.long(), torch.arange(inputs + 1))
    return Axis(low.long().to(device), weight.to(device), start.to(device))


def pixel_vectors(features: torch.Tensor, points: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The map (D, h, w) upsampled bilinearly to `size` (H, W), at the pixels `points` (K, 2) of x, y only -> (K, D)."""
    rows, columns = axis(features.shape[1], size[0], features.device), axis(features.shape[2], size[1], features.device)
    x, y = points.to(features.device).long().unbind(1)
    top, left = rows.low[y], columns.low[x]
    below, right = (top + 1).clamp_max(features.shape[1] - 1), (left + 1).clamp_max(features.shape[2] - 1)
    down, across = rows.weight[y], columns.weight[x]
    upper = (1 - across) * features[:, top, left] + across * features[:, top, right]
    lower = (1 - across) * features[:, below, left] + across * features[:, below, right]
    return ((1 - down) * upper + down * lower).T


def aligned_vectors(features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Unit patches of (D, h, w), bilinear at `points` (K, 2) of x, y in 0..1 with aligned corners -> (K, D).

    0 and 1 are the centres of the first and the last patch; beyond is nothing (zeros).
    """
    unit = F.normalize(features, dim=0)[None]
    grid = (2 * points.to(unit) - 1)[None, None]
    return F.grid_sample(unit, grid, mode="bilinear", align_corners=True)[0, :, 0].T


def best_patches(queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Queries (K, D) against the patches of (D, h, w) -> (K, 2) int64: column and row of the largest cosine."""
    cosines = F.normalize(queries, dim=1) @ F.normalize(features, dim=0).flatten(1)
    best = cosines.argmax(dim=1)
    return torch.stack([best % features.shape[2], best // features.shape[2]], dim=1)


def best_pixels(queries: torch.Tensor, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Queries (K, D) against the map (D, h, w) as if upsampled bilinearly to `size` (H, W) -> (K, 2) int64: x and y.

    The pixel of the largest cosine, the first of equals in the order of rows.
    """
    field = _Field(queries, features, size)
    found = field.largest(field.around_best_patch())
    rivals = (field.bound >= (found - TIE)[:, None, None]).nonzero().unbind(1)
    found = torch.maximum(found, field.largest(rivals))
    flat = field.first(rivals, found - TIE)
    return torch.stack([flat % size[1], flat // size[1]], dim=1)


Cells = tuple[torch.Tensor, ...]  # query, row and column (m,) of cells to look into


class _Field:
    """Cosines of all queries with all pixels, computed where asked for. Exact where torch has float64."""

    def __init__(self, queries: torch.Tensor, features: torch.Tensor, size: tuple[int, int]) -> None:
        device = features.device
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.size, self.count = size, len(queries)
        self.rows, self.columns = (axis(n, to, device) for n, to in zip(features.shape[1:], size, strict=True))
        unit = F.normalize(queries.to(exact), dim=1)
        f = F.pad(features.to(exact)[None], (0, 1, 0, 1), mode="replicate")[0]  # (D, h + 1, w + 1)
        self.products = torch.einsum("kd,dhw->khw", unit, f)
        self.square = f.square().sum(0)
        self.right, self.down = (f[:, :, :-1] * f[:, :, 1:]).sum(0), (f[:, :-1] * f[:, 1:]).sum(0)
        falling, rising = (f[:, :-1, :-1] * f[:, 1:, 1:]).sum(0), (f[:, :-1, 1:] * f[:, 1:, :-1]).sum(0)
        self.diagonal = falling + rising
        mixed = [falling, rising, self.right[:-1], self.right[1:], self.down[:, :-1], self.down[:, 1:]]
        least = _least_square(torch.stack(_corners(self.square)).amin(0), torch.stack(mixed).amin(0))
        longest = torch.stack(_corners(self.square)).amax(0)
        top = torch.stack(_corners(self.products)).amax(0)  # (K, h, w)
        norm = torch.where(top > 0, least.clamp_min(0), longest).sqrt().clamp_min(LEAST)
        empty = (self.rows.start.diff() == 0)[:, None] | (self.columns.start.diff() == 0)
        self.bound = (top / norm).masked_fill(empty, -torch.inf)

    def around_best_patch(self) -> Cells:
        """The four cells that meet in each query's best patch."""
        height, width = self.square.shape[0] - 1, self.square.shape[1] - 1
        cosines = self.products[:, :-1, :-1] / self.square[:-1, :-1].sqrt().clamp_min(LEAST)
        best = cosines.flatten(1).argmax(1)
        row, column = best // width, best % width
        query = torch.arange(self.count, device=best.device)
        parts = [
            (query, (row - i).clamp(0, height - 1), (column - j).clamp(0, width - 1)) for i in (0, 1) for j in (0, 1)
        ]
        return tuple(torch.cat(one) for one in zip(*parts, strict=True))

    def largest(self, cells: Cells) -> torch.Tensor:
        """(K,) the largest cosine of each query in the cells given; -inf where there is none."""
        best = torch.full((self.count,), -torch.inf, dtype=self.products.dtype, device=self.products.device)
        for query, cosines, _ in self._looked_into(cells):
            best.scatter_reduce_(0, query, cosines.amax((1, 2)), "amax")
        return best

    def first(self, cells: Cells, least: torch.Tensor) -> torch.Tensor:
        """(K,) the first pixel of each query, numbered along rows, whose cosine is `least` (K,) or more."""
        none = self.size[0] * self.size[1]
        best = torch.full((self.count,), none, device=self.products.device)
        for query, cosines, pixels in self._looked_into(cells):
            good = torch.where(cosines >= least[query, None, None], pixels, none)
            best.scatter_reduce_(0, query, good.amin((1, 2)), "amin")
        return best

    def _looked_into(self, cells: Cells) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """In parts: query (m,), cosines (m, rows, columns) of the cell's pixels, -inf beside it, and their numbers."""
        span = int(self.rows.start.diff().max()), int(self.columns.start.diff().max())
        step = max(1, PIXELS // (span[0] * span[1]))
        for start in range(0, len(cells[0]), step):
            query, row, column = (one[start : start + step] for one in cells)
            y, inside_y = _pixels(self.rows, row, span[0])
            x, inside_x = _pixels(self.columns, column, span[1])
            cosines = self._cosines(query, row, column, self.rows.weight[y], self.columns.weight[x])
            inside = inside_y[:, :, None] & inside_x[:, None]
            yield query, cosines.masked_fill(~inside, -torch.inf), y[:, :, None] * self.size[1] + x[:, None]

    def _cosines(
        self, query: torch.Tensor, row: torch.Tensor, column: torch.Tensor, down: torch.Tensor, across: torch.Tensor
    ) -> torch.Tensor:
        """Cosines (m, r, c) of pixels `down` (m, r) and `across` (m, c) of the way to the next patch."""
        d, a = down[:, :, None].to(self.products.dtype), across[:, None].to(self.products.dtype)
        e, b = 1 - d, 1 - a

        def at(values: torch.Tensor, i: int = 0, j: int = 0) -> torch.Tensor:
            return values[row + i, column + j][:, None, None]

        tl, tr, bl, br = (self.products[query, row + i, column + j][:, None, None] for i in (0, 1) for j in (0, 1))
        product = e * (b * tl + a * tr) + d * (b * bl + a * br)
        upper = b * b * at(self.square) + 2 * a * b * at(self.right) + a * a * at(self.square, 0, 1)
        lower = b * b * at(self.square, 1) + 2 * a * b * at(self.right, 1) + a * a * at(self.square, 1, 1)
        between = b * b * at(self.down) + a * b * at(self.diagonal) + a * a * at(self.down, 0, 1)
        square = e * e * upper + 2 * d * e * between + d * d * lower
        return product / square.clamp_min(0).sqrt().clamp_min(LEAST)


def _least_square(square: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """A bound of |v|^2 from below: the f_i^2 are `square` or more, the f_i f_j of different patches `mixed` or more.

    It is mixed + (square - mixed) times the sum of w_i^2, which lies between 1/4 and 1.
    """
    return mixed + (square - mixed) * torch.where(square > mixed, 0.25, 1.0)


def _corners(values: torch.Tensor) -> list[torch.Tensor]:
    """(..., h + 1, w + 1) -> four of (..., h, w): the values at each cell's corners."""
    return [values[..., i : i + values.shape[-2] - 1, j : j + values.shape[-1] - 1] for i in (0, 1) for j in (0, 1)]


def _pixels(along: Axis, cell: torch.Tensor, span: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of cells (m,) the pixels (m, span) along an axis, and which of these are the cell's."""
    pixels = along.start[cell][:, None] + torch.arange(span, device=cell.device)
    return pixels.clamp_max(len(along.low) - 1), pixels < along.start[cell + 1][:, None]


def unique_matches(
    first: torch.Tensor, second: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `count` vectors of `first` (n, D) whose nearest neighbour in `second` (m, D) stands out most.

    -> their indices, their neighbours' and their weights, largest first: 1 - d1 / d2, d1 and d2 the cosine distances
    to the nearest and the next, 1e-9 at least (Lowe 2004, IJCV 60, section 7.1, as in mbanani/probe3d). Fewer where
    `first` has fewer; `second` has two or more.
    """
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    parts = [torch.topk(part @ second.T, 2, dim=1) for part in first.split(max(1, COSINES // len(second)))]
    distances = (1 - torch.cat([part.values for part in parts])).clamp_min(1e-9)
    nearest = torch.cat([part.indices[:, 0] for part in parts])
    weights, index = torch.topk(1 - distances[:, 0] / distances[:, 1], min(count, len(first)))
    return index, nearest[index], weights
