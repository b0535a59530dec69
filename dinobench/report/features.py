"""A picture for papers: patches of several images coloured by the three components in which they differ most.

(Oquab et al. 2023, arXiv 2304.07193, section on the PCA of patch features: all images share one basis, so that what is
alike has one colour in all of them; the background may be taken off by the sign of the first component.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dinobench.report.panels import image_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Which patches may be coloured: all, or those on one side of the threshold.
SIDES = ALL, ABOVE, BELOW = "all", "above", "below"
CHANNELS = 3
#: Share of the patches at either end of a component that take its extreme colour, so that few take none for themselves.
LEFT_OUT = 0.01


def component_colours(maps: Sequence[np.ndarray], side: str = ALL, threshold: float = 0.0) -> list[np.ndarray]:
    """Maps (D, h, w) of several images -> (h, w, 3) uint8 of each: their first three components as red, green, blue.

    With a `side` of `SIDES` other than all, patches whose first component is not on it are black, and the components
    are those of the others; `threshold` is in standard deviations from the mean. Raises ValueError where fewer than
    four patches or three channels are left to compare.
    """
    patches = np.concatenate([np.moveaxis(m, 0, -1).reshape(-1, len(m)) for m in maps]).astype(np.float64)
    kept = np.ones(len(patches), bool)
    if side != ALL:
        first = components(patches, 1)[:, 0]
        above = first > threshold * first.std()
        kept = above if side == ABOVE else ~above
    if kept.sum() <= CHANNELS or patches.shape[1] < CHANNELS:
        raise ValueError(f"{kept.sum():,} patches of {patches.shape[1]} channels are left to colour; more are needed")
    values = components(patches[kept], CHANNELS)
    low, high = np.quantile(values, [LEFT_OUT, 1 - LEFT_OUT], axis=0)
    colours = np.zeros((len(patches), CHANNELS), np.uint8)
    scale = np.where(high > low, high - low, 1.0)
    colours[kept] = np.rint(255 * ((values - low) / scale).clip(0, 1)).astype(np.uint8)
    ends = np.cumsum([m.shape[1] * m.shape[2] for m in maps])[:-1]
    parts = zip(np.split(colours, ends), maps, strict=True)
    return [part.reshape(*m.shape[1:], CHANNELS) for part, m in parts]


def components(x: np.ndarray, count: int) -> np.ndarray:
    """x (n, D) -> (n, count): along the directions of most variance, most first, from the mean.

    A direction points to where its largest entry is positive, as it would turn from run to run otherwise.
    """
    centred = x - x.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    directions = vectors[:, ::-1][:, :count]
    largest = np.abs(directions).argmax(axis=0)
    found: np.ndarray = centred @ (directions * np.sign(directions[largest, np.arange(count)]))
    return found


def features_figure(
    images: Sequence[np.ndarray], colours: Sequence[Sequence[np.ndarray]], names: Sequence[str], title: str
) -> Figure:
    """A row per image (H, W, 3) uint8: the image, then the colours (h, w, 3) uint8 of its patches in each of `colours`.

    Columns are called `names`. The figure belongs to no window; save it with `dinobench.report.figures.figure_file`.
    """
    figure, axes = image_rows(images, names, title)
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        for column, of_images in enumerate(colours, 1):
            axes[row, column].imshow(
                of_images[row], extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest"
            )
    return figure
