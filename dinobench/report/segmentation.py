"""A picture for papers: label maps over their images, beside the truth, with a legend of the classes that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dinobench.data.label_maps import IGNORED
from dinobench.data.video import palette
from dinobench.metrics.segmentation import boundary
from dinobench.report.panels import image_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Share of a class's colour over the image.
STRENGTH = 0.6
#: Columns of the legend.
COLUMNS = 6


def segmentation_figure(
    images: Sequence[np.ndarray],
    maps: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    classes: Sequence[str],
    title: str,
    background: int | None = None,
) -> Figure:
    """A row per image: the image, then the label maps of each of `maps`, whose columns are called `names`.

    images (H, W, 3) uint8, label maps (H, W) uint8 of the same sizes. `background` is a class that is not coloured;
    ignored pixels are white. The figure belongs to no window; save it with `dinobench.report.figures.figure_file`.
    """
    from matplotlib.patches import Patch

    shown = sorted({int(c) for column in maps for labels in column for c in np.unique(labels)} - {IGNORED, background})
    legend = 0.2 * -(-len(shown) // COLUMNS) + 0.3 if shown else 0.0
    figure, axes = image_rows(images, names, title, below=legend)
    for row, image in enumerate(images):
        for column, labels in enumerate(maps, 1):
            axes[row, column].imshow(coloured(image, labels[row], background))
    if shown:
        patches = [Patch(facecolor=_colours()[c] / 255, label=classes[c]) for c in shown]
        keys = figure.legend(handles=patches, loc="outside lower center", ncols=COLUMNS, fontsize=7, frameon=False)
        for text in keys.get_texts():
            text.set_parse_math(False)
    return figure


def coloured(image: np.ndarray, labels: np.ndarray, background: int | None = None) -> np.ndarray:
    """The image (H, W, 3) uint8 under the colours of its classes (H, W) uint8, each class outlined."""
    out = image.astype(np.float32)
    colours = _colours().astype(np.float32)
    for label in np.unique(labels):
        if label == background:
            continue
        inside, colour = labels == label, colours[label] if label != IGNORED else np.float32(255)
        out[inside] = (1 - STRENGTH) * out[inside] + STRENGTH * colour
        out[boundary(inside) > 0] = colour
    return np.rint(out).astype(np.uint8)


def _colours() -> np.ndarray:
    """(256, 3) uint8, PASCAL VOC's; its black is grey here, for sets whose class 0 is a class like others."""
    colours = np.array(palette(), np.uint8).reshape(-1, 3)
    colours[0] = 96
    return colours
