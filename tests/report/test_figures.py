from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dinobench.report import figures


def test_attention_figure_shows_every_head():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    figure = figures.attention_figure(image, rng.random((8, 24)), (4, 6), "random weights")
    titles = [axis.get_title() for axis in figure.axes]
    assert [t for t in titles if t.startswith("head")] == [f"head {i}" for i in range(8)]
    assert figure._suptitle.get_text() == "random weights"
    with Image.open(io.BytesIO(figures.figure_png(figure))) as png:
        assert png.format == "PNG" and png.width > 1000


def test_gif_has_a_page_per_frame_with_truth_beside(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    labels = np.zeros((3, 30, 40), np.uint8)
    labels[:, 5:15, 5:15], labels[:, 20:25, 20:35] = 1, 2
    content = figures.propagation_gif(frames, labels, labels, "cat", width=80)
    with Image.open(io.BytesIO(content)) as gif:
        assert (gif.n_frames, gif.width, gif.info["loop"]) == (3, 160, 0)


def test_overlay_leaves_the_rest_and_tells_objects_apart():
    image = np.full((20, 20, 3), 128, np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[2:8, 2:8], labels[11:18, 11:18] = 1, 2
    out = figures.overlay(image, labels)
    assert (out[0, 15] == 128).all() and (out[4, 4] != out[14, 14]).any() and (out[4, 4] != 128).any()
