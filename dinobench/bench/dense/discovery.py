"""How this machine does against the limits of object discovery, on images of 480 x 480 pixels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from dinobench.algorithms.object_discovery import (
    bipartition,
    dense_second_eigenvector,
    joined,
    lost,
    second_eigenvector,
)
from dinobench.bench.measure import BenchRow, in_turn
from dinobench.data.embedded.shapes import images as shape_images
from dinobench.data.transforms import ImageTransform
from dinobench.models.loading import load_backbone
from dinobench.types import Backbone

SIDE = 480
#: Patches of the graph that both solvers cut.
PATCHES = 1000


def discovery(arch: str = "vit_small_patch16_224", repeats: int = 3, device: str = "cpu") -> list[BenchRow]:
    """All rows: the eigenvector against the dense solver's, LOST against the forward pass before it."""
    torch_device = torch.device("cpu" if device == "auto" else device)
    backbone = load_backbone(f"random:{arch}").to(torch_device)
    return [eigenvector(repeats), graph(backbone, repeats, torch_device)]


def eigenvector(repeats: int, patches: int = PATCHES, dim: int = 384) -> BenchRow:
    """TokenCut's eigenvector of one image, by the iteration and by the whole generalized problem.

    Raises AssertionError where the two cut the graph otherwise: then there is nothing to compare.
    """
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((6, dim))  # things in the picture, of which a patch shows one mixed with others
    shares = rng.dirichlet(np.full(6, 0.4), patches)
    features = shares @ kinds + 0.3 * rng.standard_normal((patches, dim))
    edges = joined(torch.from_numpy(features))

    def ours() -> None:
        second_eigenvector(edges)

    def dense() -> None:
        dense_second_eigenvector(edges)

    assert np.array_equal(bipartition(second_eigenvector(edges))[1], bipartition(dense_second_eigenvector(edges))[1])
    a, b = in_turn([ours, dense], repeats)
    what = f"tokencut's eigenvector, {patches:,} patches"
    return BenchRow(what, f"{1000 * a:.0f} ms", f"{1000 * b:.0f} ms dense", b / a, "at least 5", b / a >= 5)


def graph(backbone: Backbone, repeats: int, device: torch.device, count: int = 4) -> BenchRow:
    """Keys and LOST's graph on a few images, against their bare forward passes."""
    shapes, transform = shape_images(), ImageTransform(None, None)
    pixels = [shapes.load(i).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for i in shapes.ids("instances")[:count]]
    x = transform.normalise(torch.from_numpy(np.stack([transform(image) for image in pixels])).to(device))
    patch = backbone.patch_size or 1
    grid = SIDE // patch, SIDE // patch

    def ours() -> None:
        with torch.inference_mode():
            for image in x:
                keys = backbone.keys(image[None])[0].transpose(0, 1).flatten(1)
                lost(keys, grid)

    def forward() -> None:
        with torch.inference_mode():
            for image in x:
                backbone.features(image[None])

    a, b = in_turn([ours, forward], repeats)
    what = f"lost, {backbone.info.arch}, {count} images at {SIDE} x {SIDE}"
    return BenchRow(what, f"{a:.2f} s", f"{b:.2f} s bare forward", a / b, "at most 1.3", a / b <= 1.3)
