from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.typed import assert_one_line
from PIL import Image

from dinobench.cli import main
from dinobench.data.embedded import shape_keypoints
from dinobench.errors import UserError
from dinobench.report.points import RIGHT, WRONG, chosen_pairs, points_figure


def test_pairs_by_name_or_one_of_each_class():
    data = shape_keypoints.pairs()
    assert [pair.id for pair in chosen_pairs(data, [])] == [f"{k}/00-01" for k in sorted(shape_keypoints.KINDS)]
    assert [pair.id for pair in chosen_pairs(data, ["ring/02-03", "disc/00-02"])] == ["ring/02-03", "disc/00-02"]
    with pytest.raises(UserError, match="unknown pair 'ring/02-3': did you mean"):
        chosen_pairs(data, ["ring/02-3"])


def test_a_line_for_every_point_in_the_colour_of_its_outcome():
    data = shape_keypoints.pairs()
    pairs = chosen_pairs(data, ["disc/00-01", "triangle/00-01"])
    images = [(np.asarray(data.load(pair.source)), np.asarray(data.load(pair.target))) for pair in pairs]
    right = [np.array([True, False, True, False, True]), np.zeros(4, bool)]
    figure = points_figure(images, pairs, [pair.target_points for pair in pairs], right, "a $title")
    lines = [(tuple(one.get_edgecolor()[:3]), one.get_linestyle()) for one in figure.artists]
    wanted = [(tuple(colour), style) for good in np.concatenate(right) for colour, style in [RIGHT if good else WRONG]]
    assert lines == wanted
    assert [axis.get_title() for axis in figure.axes[::2]] == ["disc: 3 of 5", "triangle: 0 of 4"]


def test_as_typed(tmp_path, capsys, monkeypatch):
    def typed(*line):
        monkeypatch.setattr(sys, "argv", ["dinobench", "visualize", "correspondence", "--ckpt", "pixels", *line])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    picture = tmp_path / "points.png"
    code, _, err = typed("--pair", "ring/02-03", "--profile", "sd-dino", "--set", "size=64", "--output", str(picture))
    assert code == 0 and "points.png" in err
    with Image.open(picture) as image:
        assert image.width > 500
    assert_one_line(*typed("--pair", "rings", "--output", str(picture)), "unknown pair 'rings'")
    assert_one_line(*typed("--output", str(tmp_path / "points.txt")), "points.txt")
