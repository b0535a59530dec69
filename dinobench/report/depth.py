"""A picture for papers: predicted depth beside the image and the truth, all on one colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dinobench.report.panels import image_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches of the colour bar with its numbers.
BAR = 0.7
#: Share of the shown depths that the colour bar leaves out at the far end, so that few far pixels take no colours.
LEFT_OUT = 0.01


def depth_figure(
    images: Sequence[np.ndarray], maps: Sequence[Sequence[np.ndarray]], names: Sequence[str], title: str
) -> Figure:
    """A row per image: the image, then its depth in each of `maps`, whose columns are called `names`.

    images (H, W, 3) uint8, depth (H, W) in metres of the same sizes; 0 is unknown and white. One range of colours for
    all, from the nearest to nearly the farthest. The figure belongs to no window; save it with
    `dinobench.report.figures.figure_file`.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    known = np.concatenate([depth[depth > 0] for column in maps for depth in column])
    nearest, farthest = (float(known.min()), float(np.quantile(known, 1 - LEFT_OUT))) if len(known) else (0.0, 1.0)
    shared = Normalize(nearest, max(farthest, nearest + 1e-3))
    figure, axes = image_rows(images, names, title, right=BAR)
    colours = colormaps["viridis_r"].with_extremes(bad="white")
    for row in range(len(images)):
        for column, depths in enumerate(maps, 1):
            shown = axes[row, column].imshow(np.ma.masked_equal(depths[row], 0), cmap=colours, norm=shared)
    bar = figure.colorbar(shown, ax=axes, label="depth in metres", extend="max", shrink=0.9)
    bar.ax.tick_params(labelsize=7)
    return figure
