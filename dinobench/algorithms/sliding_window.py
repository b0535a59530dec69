"""An image seen through overlapping windows, and what was computed in them merged again without full-size maps.

(mmsegmentation 0.30 `slide_inference`; facebookresearch/dinov3 `eval/segmentation/inference.py`.) The released programs
upsample every window's scores to its pixels, add them up over the image, divide by the number of windows at each pixel
and resize the whole to the labels' size. All of that is linear and goes along rows and columns apart, so here it is one
matrix for the rows and one for the columns, and scores exist at the patches' size and at the labels' alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn import functional as F

Spans = tuple[tuple[int, int], ...]


class Windows(NamedTuple):
    """All pairs of row spans and column spans [first, beyond last) of an image of `size` (height, width)."""

    size: tuple[int, int]
    rows: Spans
    columns: Spans

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B * windows, C, h, w): an image's windows follow each other row by row."""
        cuts = [x[..., top:bottom, left:right] for top, bottom in self.rows for left, right in self.columns]
        return torch.stack(cuts, dim=1).flatten(0, 1)


def sliding_windows(height: int, width: int, crop: int, stride: int, square: bool = True) -> Windows:
    """The windows of `crop` pixels, `stride` apart, the last of a row or column pushed back inside the image.

    Where both sides are below `crop`, windows are as high and wide as the shorter side with `square` (DINOv3's), else
    as the image (mmseg's). Where one is, they are as low or narrow as that one. A stride above such a smaller window
    would leave pixels that no window sees, which are 0 / 0 in the release: it is then the window's side.

    >>> sliding_windows(512, 683, 512, 341).columns
    ((0, 512), (171, 683))
    """
    if square and height < crop and width < crop:
        crop = min(height, width)
    return Windows((height, width), _spans(height, crop, stride), _spans(width, crop, stride))


def _spans(length: int, crop: int, stride: int) -> Spans:
    crop = min(crop, length)
    stride = min(stride, crop)
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, length) for i in range(count)]
    return tuple((end - crop, end) for end in ends)


def merge(maps: torch.Tensor, windows: Windows, size: tuple[int, int]) -> torch.Tensor:
    """Scores in windows (B * windows, C, h, w), as `Windows.cut` orders them -> (B, C, H, W) at `size`.

    Each map is stretched over its window bilinearly (align_corners false), overlapping ones are averaged, and the
    image's whole is brought to `size` bilinearly.
    """
    ny, nx = len(windows.rows), len(windows.columns)
    channels, h, w = maps.shape[1:]
    grid = maps.view(-1, ny, nx, channels, h, w).permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, ny * h, nx * w)
    down = _axis(windows.size[0], windows.rows, h, size[0]).to(maps)
    across = _axis(windows.size[1], windows.columns, w, size[1]).to(maps)
    return down @ (grid @ across.T)


@lru_cache(maxsize=256)
def _axis(length: int, spans: Spans, cells: int, size: int) -> torch.Tensor:
    """(size, spans * cells) float32: what each output position takes of each window's cells along one axis."""
    with torch.inference_mode(False), torch.no_grad():
        whole = torch.zeros(length, len(spans), cells, dtype=torch.float64)
        seen = torch.zeros(length, dtype=torch.float64)
        for i, (first, beyond) in enumerate(spans):
            whole[first:beyond, i] = linear_weights(cells, beyond - first)
            seen[first:beyond] += 1
        return (linear_weights(length, size) @ (whole.flatten(1) / seen[:, None])).float()


@lru_cache(maxsize=256)
def linear_weights(cells: int, size: int) -> torch.Tensor:
    """(size, cells) float64: what a linear resize takes of each cell, pixel centres in their places."""
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(cells, dtype=torch.float64)[None]
        return F.interpolate(unit, size=size, mode="linear", align_corners=False)[0].T


def winners(scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, C, H, W) of at most 255 classes -> (B, H, W) uint8, the largest's channel, of equals the first.

    An argmax over a dimension that is not the last takes 30 times as long on a CPU.
    """
    if scores.device.type != "cpu":
        return scores.argmax(dim=1).to(torch.uint8)
    best = scores[:, 0].clone()
    winner = torch.zeros(best.shape, dtype=torch.uint8)
    for channel in range(1, scores.shape[1]):
        winner.masked_fill_(scores[:, channel] > best, channel)
        torch.maximum(best, scores[:, channel], out=best)
    return winner
