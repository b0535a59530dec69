"""Patches of images at unit length, for what compares them by cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.nn.functional import normalize

from dinobench.data.transforms import ImageTransform
from dinobench.features.extraction import forward_batches, out_of_range, to_device
from dinobench.types import Backbone, Context

S = TypeVar("S")
P = TypeVar("P")
#: Images per forward pass, on a CPU, which gains nothing from more, and elsewhere.
BATCH = 4, 32


def unit_patches(
    backbone: Backbone,
    items: Sequence[S],
    load: Callable[[S], tuple[np.ndarray, P]],
    transform: ImageTransform,
    ctx: Context,
    description: str,
    named: Callable[[S], str],
    broken: list[S],
) -> Iterator[tuple[list[S], list[P], torch.Tensor]]:
    """Batches of (items, what `load` gave beside their pixels, their patches (B, N, D) of unit length on the device).

    Patches are those of the last block after the final norm. `load` gives pixels (3, H, W) on the scale 0..255, all of
    one size, which `transform` normalises; it runs in threads, and items that cannot be read go to `broken`. Raises
    UserError for features that are not finite, with the images as `named`.
    """

    def forward(loaded: list[tuple[np.ndarray, P]]) -> torch.Tensor:
        x = transform.normalise(to_device([pixels for pixels, _ in loaded], ctx.device))
        return normalize(backbone.layers(x, 1)[-1][1].float(), dim=-1)

    for batch, loaded, patches in forward_batches(
        ctx, items, load, forward, batch=BATCH, broken=broken,
        watch=lambda decoded: ctx.progress(decoded, description, len(items)),
    ):  # fmt: skip
        if not patches.isfinite().all():
            raise out_of_range(backbone, [named(item) for item in batch])
        yield batch, [beside for _, beside in loaded], patches
