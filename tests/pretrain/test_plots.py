"""Curves of a training, and collapses side by side."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from dinobench.pretrain.plots import collapse_figure, curves_figure, write_curves


def curve(epochs, **keys):
    return [{"epoch": e, **{k: f(e) for k, f in keys.items()}} for e in range(epochs)]


def drawn(figure):
    """(title, the lines' labels) of every panel with lines."""
    return [(a.get_title(), [line.get_label() for line in a.get_lines()]) for a in figure.axes if a.get_lines()]


def test_curves_draw_what_is_there(tmp_path):
    rows = curve(
        5, loss=lambda e: math.nan if e == 2 else 1 / (e + 1), lr=float, teacher_entropy=lambda e: 3.0, kl=float,
        student_feature_std=lambda e: 0.1 * e, images_per_second=float, unknown=lambda e: "text",
    )  # fmt: skip
    rows[4] |= {"knn/teacher/top1@k20": 50.0, "knn/student/top1@k20": 45.0}
    figure = curves_figure(rows)
    assert drawn(figure) == [
        ("loss", ["loss"]),
        ("entropy and KL (nats)", ["teacher's entropy", "KL(teacher ‖ student)"]),
        ("spread of features (1 = even)", ["student"]),
        ("learning rate", ["learning rate"]),
        ("knn: top1@k20", ["teacher", "student"]),
    ]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [0, 1, 3, 4]  # what is not finite is left out
    write_curves(rows, tmp_path / "curves.png", "dino")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000
    write_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_two_collapses_beside_each_other(tmp_path):
    runs = {
        "DINO": curve(4, teacher_entropy=lambda e: 4.0, kl=lambda e: 1.0),
        "no centring": curve(4, teacher_entropy=lambda e: 2.0**-e, kl=lambda e: 2.0**-e),
        "no sharpening": curve(4, teacher_entropy=lambda e: 8.3, kl=lambda e: 0.01),
    }
    figure = collapse_figure(runs, outputs=4096)
    assert [labels[:3] for _, labels in drawn(figure)] == [list(runs)] * 2
    figure.savefig(tmp_path / "collapse.png")
    image = np.asarray(Image.open(tmp_path / "collapse.png").convert("RGB"))
    colourful = (image.max(axis=2).astype(int) - image.min(axis=2)) > 60
    assert len({tuple(c // 32) for c in image[colourful][::7]}) >= 3  # a colour for each run
