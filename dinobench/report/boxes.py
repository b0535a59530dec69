"""A picture for papers: the boxes that methods found in images, over the annotated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dinobench.metrics.localization import best_iou
from dinobench.report.figures import COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Panels side by side, and inches of one's width.
COLUMNS, INCHES = 4, 2.2


def boxes_figure(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    found: Mapping[str, Sequence[np.ndarray]],
    names: Sequence[str],
    title: str,
) -> Figure:
    """A panel per image: annotated boxes dashed and white, each method's box in its colour with its IoU.

    images (H, W, 3) uint8; truths (K, 4) and `found` by method (4,) are x1, y1, x2, y2 in pixels; `names` stand above
    the panels. The figure belongs to no window; save it with `dinobench.report.figures.figure_file`.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    shapes = [image.shape[0] / image.shape[1] for image in images]
    heights = [INCHES * max(shapes[row * columns : (row + 1) * columns]) + 0.3 for row in range(rows)]
    figure = Figure(figsize=(INCHES * columns, sum(heights) + 0.8), dpi=200, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    colours = {method: COLORS[i % len(COLORS)] / 255 for i, method in enumerate(found)}
    for place, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(image)
        height, width = image.shape[:2]
        drawn = [(box, "white", "--") for box in truths[place]]
        drawn += [(boxes[place], colours[method], "-") for method, boxes in found.items()]
        for (x1, y1, x2, y2), colour, line in drawn:
            corner = (x1 - 0.5, y1 - 0.5)  # a pixel's centre has whole coordinates in the picture
            axis.add_patch(
                Rectangle(corner, x2 - x1, y2 - y1, fill=False, linewidth=1.2, edgecolor=colour, linestyle=line)
            )
        right, bottom = np.max([(width, height), *(box[2:] for box, _, _ in drawn)], axis=0)
        axis.set(xlim=(-1, right), ylim=(bottom, -1))  # a box may reach beyond the image, into its padding
        ious = ", ".join(f"{best_iou(boxes[place], truths[place]):.2f}" for boxes in found.values())
        axis.set_title(f"{names[place]}: {ious}", fontsize=7, parse_math=False)
    legend = [Patch(facecolor="none", edgecolor="grey", linestyle="--", label="annotated")]
    legend += [Patch(facecolor="none", edgecolor=colour, label=method) for method, colour in colours.items()]
    for text in figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=7).texts:
        text.set_parse_math(False)
    figure.suptitle(f"{title}: boxes and their best IoU", fontsize=9, parse_math=False)
    return figure
