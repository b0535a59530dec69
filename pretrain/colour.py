"""Colour changes of batches of pictures, each with its own parameters, in PIL's 8-bit arithmetic.

Pictures are (n, 3, S, S) float32 of whole numbers 0..255, RGB. What PIL truncates, rounds or wraps is done alike, so
that results are those of torchvision's transforms on PIL images.
"""

from __future__ import annotations

import numpy as np
import torch

from dinobench.pretrain.resample import on

#: Luma of ITU-R 601-2 in 65536ths, which PIL's conversion to grey adds up in integers (exact in float32).
LUMA = np.array([19595, 38470, 7471], np.float32)
#: The indices of the four changes in torchvision's ColorJitter.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
#: How far channels fall below the highest at hue h of 0..6, cut to 0..1: red by 2 - |h - 3|, green by |h - 2| - 1, blue
#: by |h - 4| - 1; rows are the hue subtracted, the factor of its magnitude, and what is added.
FALLS = np.array([[3, 2, 4], [-1, 1, 1], [2, -1, -1]], np.float32)
#: From where on solarising inverts (PIL's default).
SOLARIZE_FROM = 128


def grayscale(x: torch.Tensor) -> torch.Tensor:
    """(n, 1, S, S): PIL's mode L."""
    weights = on(LUMA / 65536, x.device).expand(len(x), 1, 3)
    n, _, height, width = x.shape
    return torch.bmm(weights, x.reshape(n, 3, height * width)).view(n, 1, height, width).add_(0.5).floor_()


def jitter_(x: torch.Tensor, order: np.ndarray, factors: np.ndarray, hue: bool = True) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue in place, of each picture in its own order.

    `order` (n, 4): the indices of the changes as they come; `factors` (n, 4): column i belongs to change i, three
    factors and a turn of the hue in circles. Without `hue` the colours do not even take PIL's lossy way through 8-bit
    HSV.
    """
    n = len(order)
    for slot in range(4):
        change = order[:, slot]
        share = np.where(change == HUE, 1, factors[np.arange(n), change])
        table = np.stack([share, change == SATURATION, change == CONTRAST], axis=1).astype(np.float32)
        factor, coloured, contrasted = on(table, x.device).view(n, 3, 1, 1, 1).unbind(1)
        luma = grayscale(x)
        mean = luma.sum((1, 2, 3), keepdim=True, dtype=torch.int32 if x.device.type == "mps" else torch.float64)
        mean = mean.float().div_(luma[0].numel()).add_(0.5).floor_()
        base = luma.mul_(coloured).add_(mean * contrasted)
        # PIL's blend truncates. Where nothing is to change, the factor is 1 and whole numbers stay what they are.
        torch.addcmul(base, x.sub_(base), factor, out=x).clamp_(0, 255).floor_()
        turned = np.flatnonzero(change == HUE)
        if hue and len(turned):
            rows = on(turned, x.device)
            x.index_copy_(0, rows, turn_hue(x.index_select(0, rows), factors[turned, HUE]))
    return x


def turn_hue(x: torch.Tensor, circles: np.ndarray) -> torch.Tensor:
    """Turn each picture's hue by `circles` (n,) in -0.5..0.5, through 8-bit HSV and back as PIL converts."""
    shift = on(np.trunc(circles * 255).astype(np.float32), x.device).view(-1, 1, 1)
    high, low = x.amax(1), x.amin(1)
    spread = high - low
    away = (high[:, None] - x).div_(spread.clamp(min=1)[:, None])
    # Hues often fall on whole 255ths exactly and would come out on either side: the same float32 and float64 as PIL.
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    red, green, blue = away.to(wide).unbind(1)
    hue = torch.where(x[:, 1] == high, red + 2 - blue, green + 4 - red)
    hue = torch.where(x[:, 0] == high, blue - green, hue).float().to(wide)
    hue = hue.div_(6).add_(1).frac_().float().to(wide).mul_(255).floor_().float()
    hue = torch.where(spread > 0, hue, 0.0).add_(shift).remainder_(256).mul_(6 / 255)
    saturation = (spread / high.clamp(min=1)).mul_(255).floor_().div_(255)
    sector, side, at_zero = on(FALLS, x.device).view(3, 3, 1, 1)
    fall = (hue[:, None] - sector).abs_().mul_(side).add_(at_zero).clamp_(0, 1)
    return torch.addcmul(high[:, None], fall, saturation.mul_(high)[:, None], value=-1).add_(0.5).floor_()


def solarize(x: torch.Tensor) -> torch.Tensor:
    """Invert what is 128 or brighter."""
    return torch.where(x < SOLARIZE_FROM, x, 255 - x)
