"""The picture of label maps over their images."""

from __future__ import annotations

import numpy as np

from dinobench.report.figures import figure_file
from dinobench.report.segmentation import coloured, segmentation_figure


def test_classes_are_coloured_and_named_and_the_background_is_left():
    image = np.full((20, 30, 3), 100, np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:15], labels[:, 25:] = 2, 255
    out = coloured(image, labels, background=0)
    assert (out[:3, :20] == 100).all() and (out[10, 10] != 100).any() and out[10, 28].min() > 150
    assert (coloured(image, labels)[:3, :20] != 100).any()
    figure = segmentation_figure([image], [[labels], [labels]], ["a $x", "truth"], ["sky", "b", "$cat"], "t", 0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["$cat"]
    assert figure_file(figure, "svg").startswith(b"<?xml")


def test_maps_of_nothing_but_background_have_no_legend():
    image, labels = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    assert not segmentation_figure([image], [[labels]], ["truth"], ["sky"], "t", 0).legends
