"""Rows of panels: an image, and beside it what several methods make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches of one image's width.
INCHES = 2.2


def image_rows(
    images: Sequence[np.ndarray], names: Sequence[str], title: str, right: float = 0.0, below: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """A figure with a row per image (H, W, 3) uint8, and its axes (images, 1 + names): the image, then free panels.

    `names` stand above the free panels; `right` and `below` are inches for a bar or a legend. The figure belongs to no
    window; save it with `dinobench.report.figures.figure_file`.
    """
    from matplotlib.figure import Figure

    heights = [INCHES * image.shape[0] / image.shape[1] for image in images]
    size = INCHES * (1 + len(names)) + right, sum(heights) + 0.6 + below
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    axes: np.ndarray = figure.subplots(len(images), 1 + len(names), squeeze=False, height_ratios=heights)
    for axis, image in zip(axes[:, 0], images, strict=True):
        axis.imshow(image)
    for axis, name in zip(axes[0], ("image", *names), strict=True):
        axis.set_title(name, fontsize=8, parse_math=False)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure, axes
