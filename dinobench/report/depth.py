"""A picture for papers: predicted depth beside the image and the truth, all on one colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches of one image's width, and of the colour bar with its numbers.
INCHES, BAR = 2.2, 0.7
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
    from matplotlib.figure import Figure

    known = np.concatenate([depth[depth > 0] for column in maps for depth in column])
    nearest, farthest = (float(known.min()), float(np.quantile(known, 1 - LEFT_OUT))) if len(known) else (0.0, 1.0)
    shared = Normalize(nearest, max(farthest, nearest + 1e-3))
    heights = [INCHES * image.shape[0] / image.shape[1] for image in images]
    size = INCHES * (1 + len(maps)) + BAR, sum(heights) + 0.6
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    axes = figure.subplots(len(images), 1 + len(maps), squeeze=False, height_ratios=heights)
    colours = colormaps["viridis_r"].with_extremes(bad="white")
    for row, image in enumerate(images):
        axes[row, 0].imshow(image)
        for column, depths in enumerate(maps, 1):
            shown = axes[row, column].imshow(np.ma.masked_equal(depths[row], 0), cmap=colours, norm=shared)
    for axis, name in zip(axes[0], ("image", *names), strict=True):
        axis.set_title(name, fontsize=8, parse_math=False)
    for axis in axes.flat:
        axis.set_axis_off()
    bar = figure.colorbar(shown, ax=axes, label="depth in metres", extend="max", shrink=0.9)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure
