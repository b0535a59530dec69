"""Curves of a training, drawn while it goes on too, and collapses side by side."""

from __future__ import annotations

import math
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from dinobench.pretrain import plots
from dinobench.pretrain.plots import CurvesWriter, collapse_figure, curves_figure, write_curves


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
    rows[4] |= {"knn/teacher/top1@k20": 50.0, "knn/student/top1@k20": 45.0, "knn/teacher/top5": 80.0}
    figure = curves_figure(rows)
    assert drawn(figure) == [
        ("knn: top1@k20", ["teacher", "student"]),
        ("loss", ["loss"]),
        ("entropy and KL (nats)", ["teacher's entropy", "KL(teacher ‖ student)"]),
        ("spread of features (1 = even)", ["student"]),
        ("learning rate", ["learning rate"]),
        ("knn: top5", ["teacher"]),
    ]
    assert list(figure.axes[1].get_lines()[0].get_xdata()) == [0, 1, 3, 4]  # what is not finite is left out
    write_curves(rows, tmp_path / "curves.png", "dino")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000
    write_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def scored(epoch, *metrics, network="teacher"):
    return {f"{metric.replace(':', f'/{network}/')}": 10.0 + epoch for metric in metrics}


def test_primary_metrics_come_first_and_variants_share_a_panel():
    names = ("knn:top1@k20", "knn:top1@k10", "knn:top5", "davis:J&F-Mean", "davis:J-Mean")
    rows = [{"epoch": e, **({"loss": 1.0} if e else {})} for e in range(4)]
    for e in (0, 2):
        rows[e] |= scored(e, *names) | scored(e, *names, network="student")
    figure = curves_figure(rows)
    assert drawn(figure) == [
        ("knn: top1", ["teacher k20", "teacher k10", "student k20", "student k10"]),
        ("davis: J&F-Mean", ["teacher", "student"]),
        ("loss", ["loss"]),
        ("knn: top5", ["teacher", "student"]),
        ("davis: J-Mean", ["teacher", "student"]),
    ]
    variants = {"epoch": 5, **scored(5, "knn:top1@k20", "knn:top1@k10", "knn:top5@k10", "knn:top5@k20")}
    assert [labels for _, labels in drawn(curves_figure([variants]))] == [["teacher k20", "teacher k10"]] * 2
    knn, *others = figure.axes
    legend = [text.get_text() for text in knn.get_legend().get_texts()]
    assert legend == ["k20", "k10", "teacher", "student"]  # colours, then strokes
    teacher, _, student, _ = knn.get_lines()
    assert teacher.get_color() == student.get_color() and teacher.get_linestyle() != student.get_linestyle()
    assert list(teacher.get_xdata()) == [0, 2]
    assert len({axis.get_xlim() for axis in (knn, *others[:4])}) == 1  # epochs below each other


@pytest.mark.parametrize("epochs", [0, 1, 3, 300])
def test_nothing_of_a_picture_lies_on_anything_else(epochs):
    rows = [{"epoch": 0, **scored(0, *(f"knn:top1@k{k}" for k in (20, 10, 100, 200)))}]
    rows += [{"epoch": e, "loss": 4.1588 - 1e-6 * e, "teacher_entropy": 4.1588, "teacher_mean_entropy": 4.1588,
              "kl": 0.0, "lr": 1e-5} for e in range(1, epochs + 1)]  # fmt: skip
    rows[-1] |= rows[0] | {"epoch": epochs}
    figure = curves_figure(rows, "runs/$x")
    figure.savefig(BytesIO())  # lays out
    shown = [axis for axis in figure.axes if axis.get_lines()]
    boxes = [axis.get_tightbbox() for axis in shown]  # with titles, numbers and legends
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
    for axis in shown:
        assert len({tick.get_text() for tick in axis.get_xticklabels()}) == len(axis.get_xticklabels())
        if legend := axis.get_legend():
            assert not legend.get_window_extent().overlaps(axis.get_window_extent())


class Clock:
    def __init__(self, monkeypatch, takes):
        self.now, self.drawn = 0.0, []

        def write(history, path, title):
            self.drawn.append((self.now, len(history)))
            self.now += takes

        monkeypatch.setattr(plots.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(plots, "write_curves", write)


@pytest.mark.parametrize(("takes", "every"), [(0.5, plots.SECONDS), (3.0, 300.0)])
def test_a_picture_is_drawn_while_training_goes_on_within_its_share_of_the_time(takes, every, monkeypatch, tmp_path):
    clock = Clock(monkeypatch, takes)
    curves = CurvesWriter(tmp_path / "curves.png", "run")
    for _ in range(2000):
        clock.now += 1
        curves.follow([], scored=False)
    times = [time for time, _ in clock.drawn]
    assert times[0] == plots.SECONDS and all(every <= b - a - takes < every + 1 for a, b in pairwise(times))
    curves.follow([{}], scored=True)
    clock.now += takes / plots.SHARE
    curves.follow([{}], scored=True)
    assert clock.drawn[-1][1] == 1 and takes * len(clock.drawn) <= plots.SHARE * clock.now + takes


def test_a_picture_that_fails_is_told_once_and_stops_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "curves.png").mkdir()
    curves = CurvesWriter(tmp_path / "curves.png", "run")
    for _ in range(2):
        curves.draw(curve(2, loss=float))
    err = capsys.readouterr().err
    assert err.count("curves.png: cannot be drawn (IsADirectoryError") == 1 and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


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
