"""A picture for papers: keypoints of one image and where they were found in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dinobench.data.pairs.keypoints import KeypointSet, PointPair
from dinobench.errors import unknown_name
from dinobench.report.figures import COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Of points that were found and that were not, and how their lines are drawn, for those to whom both are one colour.
RIGHT, WRONG = (COLORS[2] / 255, "-"), (COLORS[5] / 255, ":")
INCHES = 2.4  # of one image's width
MOST = 6  # pairs, where none are named


def chosen_pairs(data: KeypointSet, names: Sequence[str]) -> list[PointPair]:
    """The pairs of these names, or the first of each class, `MOST` at most. Raises UserError for an unknown name."""
    by_name = {pair.id: pair for pair in data.pairs}
    for name in names:
        if name not in by_name:
            raise unknown_name("pair", name, by_name)
    first = {pair.category: pair for pair in reversed(data.pairs)}
    return [by_name[name] for name in names] or [first[category] for category in sorted(first)][:MOST]


def points_figure(
    images: Sequence[tuple[np.ndarray, np.ndarray]],
    pairs: Sequence[PointPair],
    found: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    title: str,
) -> Figure:
    """A row per pair: source and target (H, W, 3) uint8 with a line from each point to where it was found (K, 2).

    `right` (K,) bool are drawn green and whole, others red and dotted; a ring marks the truth. The figure belongs to no
    window; save it with `dinobench.report.figures.figure_file`.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import ConnectionPatch

    heights = [INCHES * max(image.shape[0] / image.shape[1] for image in both) for both in images]
    figure = Figure(figsize=(2 * INCHES, sum(heights) + 0.5), dpi=200, layout="constrained")
    axes = figure.subplots(len(images), 2, squeeze=False, height_ratios=heights)
    for (left, middle), both, pair, points, good in zip(axes, images, pairs, found, right, strict=True):
        for axis, image in zip((left, middle), both, strict=True):
            axis.imshow(image)
            axis.set_axis_off()
        left.set_title(f"{pair.category}: {int(good.sum())} of {len(good)}", fontsize=7, parse_math=False)
        for start, end, truth, one in zip(pair.source_points, points, pair.target_points, good, strict=True):
            colour, style = RIGHT if one else WRONG
            line = ConnectionPatch(
                start, end, "data", "data", axesA=left, axesB=middle, color=colour, linestyle=style, linewidth=0.8
            )
            line.set_in_layout(False)
            figure.add_artist(line)
            left.plot(*start, ".", color=colour, markersize=3)
            middle.plot(*end, ".", color=colour, markersize=3)
            middle.plot(*truth, "o", color=colour, markersize=5, fillstyle="none", markeredgewidth=0.6)
    figure.suptitle(title, fontsize=8, parse_math=False)
    return figure
