"""Crop, resize and blur batches of differently sized pictures by matrix products, as PIL does them one at a time.

A resize is linear along each axis, so one matrix per picture and axis does it, and pictures of all sizes share two
batched products: padding meets weights of zero. Weights are whole multiples of 2^-15, so that products with 8-bit
pixels and their sums are exact in float32: no order of summation, batch or device changes a result. The package's
float32 products must therefore not be cut to TF32 or bfloat16 while this runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

#: Bicubic with a = -0.5, reaching two source pixels to either side (PIL's Resample.c; Keys 1981).
REACH = 2.0
#: Weights are multiples of this one's inverse: 1.25 (the most their magnitudes add up to) × 255 × 2^15 < 2^24.
UNIT = 2.0**15
#: Pixels of padded crops worked on at once. A CPU works in its cache; a GPU wants few launches.
CROP_PIXELS_CPU, CROP_PIXELS_GPU = 1 << 19, 1 << 24
#: Box blurs in a row that PIL takes for a Gaussian.
PASSES = 3


def on(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on the device, without waiting for what the device still has to do (as torch.tensor would)."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _to_bytes_(x: torch.Tensor) -> torch.Tensor:
    """Round to 0..255 in place, halves up as PIL's fixed point does."""
    return x.add_(0.5).floor_().clamp_(0, 255)


class ImageBatch:
    """Images of any sizes, from which batches of crops are cut.

    On a CPU they stay as they are; elsewhere they travel as one flat buffer, and one gather cuts many crops.
    """

    def __init__(self, images: Sequence[torch.Tensor], device: torch.device, flat: torch.Tensor | None = None) -> None:
        """`images`: (3, H, W) uint8 each; `flat`: the same bytes in a row where the caller has them packed."""
        self.images, self.device = images, device
        self.heights = np.array([image.shape[1] for image in images], np.int64)
        self.widths = np.array([image.shape[2] for image in images], np.int64)
        self.flat = None
        if device.type != "cpu" or flat is not None:
            self.flat = (pack(images) if flat is None else flat).to(device, non_blocking=True)
            self.first = np.concatenate([[0], np.cumsum(3 * self.heights * self.widths)[:-1]])

    def cut(self, which: np.ndarray, boxes: np.ndarray) -> torch.Tensor:
        """Crops (n, 3, h, w) float32 of images `which` (n,), zeros below and to the right of the smaller ones.

        `boxes`: (n, 4) of top, left, height, width, inside their images.
        """
        h, w = int(boxes[:, 2].max()), int(boxes[:, 3].max())
        if self.flat is not None:
            return self._gather(which, boxes, h, w)
        crops = torch.zeros(len(which), 3, h, w)
        for crop, image, (y, x, tall, wide) in zip(crops, which.tolist(), boxes.tolist(), strict=True):
            crop[:, :tall, :wide] = self.images[image][:, y : y + tall, x : x + wide]
        return crops

    def _gather(self, which: np.ndarray, boxes: np.ndarray, h: int, w: int) -> torch.Tensor:
        assert self.flat is not None
        wide = self.widths[which]
        corner = self.first[which] + boxes[:, 0] * wide + boxes[:, 1]
        table = np.stack([corner, wide, self.heights[which] * wide, boxes[:, 2], boxes[:, 3]], axis=1)
        corners, strides, planes, tall, broad = on(table, self.device).view(-1, 5, 1, 1, 1).unbind(1)
        y, x = (torch.arange(n, device=self.device) for n in (h, w))
        y, x = y.view(h, 1), x.view(1, w)
        channel = torch.arange(3, device=self.device).view(3, 1, 1)
        # What lies outside of a crop reads its last row or column: a valid place, and its weight is zero.
        return self.flat[
            corners + channel * planes + torch.minimum(y, tall - 1) * strides + torch.minimum(x, broad - 1)
        ].float()


def pack(images: Sequence[torch.Tensor], pinned: bool = False) -> torch.Tensor:
    """The bytes of (3, H, W) uint8 images in a row; `pinned` memory is what a GPU copies from without waiting."""
    flat = torch.empty(sum(image.numel() for image in images), dtype=torch.uint8, pin_memory=pinned)
    return torch.cat([image.reshape(-1) for image in images], out=flat)


def crop_and_resize(
    images: ImageBatch, which: np.ndarray, boxes: np.ndarray, flip: np.ndarray, size: int
) -> torch.Tensor:
    """(n, 3, size, size) float32 of whole numbers 0..255: each box, cut before it is resized, mirrored where `flip`.

    Crops of like area are padded and resized together, so that one large image costs its own memory and no more.
    """
    device = images.device
    out = torch.empty(len(which), 3, size, size, device=device)
    budget = CROP_PIXELS_CPU if device.type == "cpu" else CROP_PIXELS_GPU
    tall, wide = boxes[:, 2], boxes[:, 3]
    # Where the height shrinks much more than the width, Pillow does it first since version 13; both round in between.
    down_first = (tall > size) & (tall - size > 2 * (wide - size))
    for first in (False, True):
        some = np.flatnonzero(down_first == first)
        for part in (some[group] for group in _groups(tall[some], wide[some], budget)):
            x = images.cut(which[part], boxes[part])
            down = resize_matrices(tall[part], size, x.shape[2], device)
            across = resize_matrices(wide[part], size, x.shape[3], device, flip[part])
            x = _across(_down(x, down), across) if first else _down(_across(x, across), down)
            out[on(part, device)] = x
    return out


def _across(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Rows of (n, 3, h, w) by weights (n, size, w) -> (n, 3, h, size), whole numbers 0..255."""
    n, channels, h, w = x.shape
    return _to_bytes_(torch.bmm(x.reshape(n, channels * h, w), weights.mT)).view(n, channels, h, -1)


def _down(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Columns of (n, 3, h, w) by weights (n, size, h) -> (n, 3, size, w), whole numbers 0..255."""
    return _to_bytes_(torch.stack([torch.bmm(weights, x[:, c]) for c in range(x.shape[1])], dim=1))


def _groups(heights: np.ndarray, widths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Indices in groups by rising area, each at most `budget` pixels when padded to its largest, or one alone."""
    if not len(heights):
        return
    order = np.argsort(heights * widths, kind="stable")
    start, tall, wide = 0, 0, 0
    for end, (h, w) in enumerate(zip(heights[order].tolist(), widths[order].tolist(), strict=True)):
        tall, wide = max(tall, h), max(wide, w)
        if end > start and (end + 1 - start) * tall * wide > budget:
            yield order[start:end]
            start, tall, wide = end, h, w
    yield order[start:]


def resize_matrices(
    lengths: np.ndarray, size: int, extent: int, device: torch.device, flip: np.ndarray | None = None
) -> torch.Tensor:
    """(n, size, extent) float32: row by row the weights of PIL's antialiased bicubic from lengths[i] pixels to `size`.

    Columns from lengths[i] on are zero. Where `flip`, the rows come in reverse.
    """
    place = np.arange(size)[None]
    if flip is not None:
        place = np.where(flip[:, None], size - 1 - place, place)
    scale = lengths[:, None] / size
    shrink = np.maximum(scale, 1.0)
    middle = (place + 0.5) * scale
    first = np.maximum(np.floor(middle - REACH * shrink + 0.5), 0)
    count = np.minimum(np.floor(middle + REACH * shrink + 0.5), lengths[:, None]) - first
    # The large numbers are done with in float64; what is left is a few pixels around the middle.
    start, taps, centre = (on(a.astype(np.int64), device)[..., None] for a in (first, count, np.floor(middle) - first))
    offset, step = (on(a.astype(np.float32), device)[..., None] for a in ((first - middle + 0.5) / shrink, 1 / shrink))
    tap = torch.arange(int(count.max()), device=device)
    weights = _cubic((offset + tap * step).abs_()).mul_(UNIT).round_().mul_(tap < taps)
    weights = weights.div_(weights.sum(-1, keepdim=True)).mul_(UNIT).round_()
    # The middle takes what rounding leaves, so that they add up to 1 and even surfaces stay as they are.
    weights.scatter_add_(2, centre, UNIT - weights.sum(-1, keepdim=True)).div_(UNIT)
    columns = (start + tap).clamp_(max=extent - 1)
    return torch.zeros(len(lengths), size, extent, device=device).scatter_add_(2, columns, weights)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' kernel with a = -0.5 of distances x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < REACH, far, 0.0))


def blur(x: torch.Tensor, radius: np.ndarray) -> torch.Tensor:
    """(n, 3, S, S) of whole numbers 0..255 -> the same, through PIL's GaussianBlur of a `radius` (n,) each."""
    weights = blur_matrices(radius, x.shape[-1], x.device)
    for _ in range(PASSES):
        x = _across(x, weights)
    for _ in range(PASSES):
        x = _down(x, weights)
    return x


def blur_matrices(radius: np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """(n, size, size) float32: one box blur along one axis, the border's pixels repeated beyond it."""
    box = box_radius(radius)[:, None]
    whole = np.floor(box)
    shifts = np.arange(-int(whole.max()) - 1, int(whole.max()) + 2)
    inner = 1 / (2 * box + 1)
    outer = (1 - (2 * whole + 1) * inner) / 2
    weights = np.where(np.abs(shifts) <= whole, inner, np.where(np.abs(shifts) == whole + 1, outer, 0))
    weights = np.rint(weights * UNIT)
    # As in `resize_matrices`.
    weights[:, len(shifts) // 2] += UNIT - weights.sum(axis=1)
    columns = np.clip(np.arange(size)[:, None] + shifts, 0, size - 1)
    spread = on((weights / UNIT).astype(np.float32), device)[:, None].expand(-1, size, -1)
    index = on(columns, device).expand(len(radius), -1, -1)
    return torch.zeros(len(radius), size, size, device=device).scatter_add_(2, index, spread)


def box_radius(radius: np.ndarray) -> np.ndarray:
    """The radius, with a fraction, of the box whose three passes have the variance of a Gaussian of this radius.

    Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011, (7), (11)
    and (14), as in PIL's BoxBlur.c.
    """
    variance = radius**2 / PASSES
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + fraction
