"""The picture of depth."""

from __future__ import annotations

import numpy as np

from dinobench.report.depth import depth_figure
from dinobench.report.figures import figure_file


def test_all_maps_share_one_colour_bar_and_unknown_depth_is_left():
    image = np.full((20, 30, 3), 100, np.uint8)
    near, far = np.full((20, 30), 1.5), np.full((20, 30), 4.0)
    near[:5] = 0
    figure = depth_figure([image, image], [[near, near], [far, far]], ["a $x", "truth"], "t")
    shown = [axis.images[0] for axis in figure.axes[:6] if axis.get_title() != "image"]
    depths = [each for each in shown if each.get_array().ndim == 2]
    assert len(depths) == 4 and {each.get_clim() for each in depths} == {(1.5, 4.0)}
    assert depths[0].get_array().mask.sum() == 150
    assert figure.axes[-1].get_ylabel() == "depth in metres"
    assert figure_file(figure, "svg").startswith(b"<?xml")


def test_nothing_known_is_still_a_picture():
    nothing = np.zeros((8, 8))
    assert figure_file(depth_figure([np.zeros((8, 8, 3), np.uint8)], [[nothing]], ["truth"], "t"), "png")
