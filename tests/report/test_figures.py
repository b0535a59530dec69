from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinobench.errors import UserError
from dinobench.report import figures


def test_attention_figure_shows_every_head():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    figure = figures.attention_figure(image, rng.random((8, 24)), (4, 6), "random weights")
    titles = [axis.get_title() for axis in figure.axes]
    assert [t for t in titles if t.startswith("head")] == [f"head {i}" for i in range(8)]
    assert figure._suptitle.get_text() == "random weights"
    with Image.open(io.BytesIO(figures.figure_file(figure))) as png:
        assert png.format == "PNG" and png.width > 1000


def test_gif_has_a_page_per_frame_with_truth_beside(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    labels = np.zeros((3, 30, 40), np.uint8)
    labels[:, 5:15, 5:15], labels[:, 20:25, 20:35] = 1, 2
    pages = figures.propagation_pages(frames, labels, labels, "cat", width=80)
    with Image.open(io.BytesIO(figures.video_file(pages, 10, "gif"))) as gif:
        assert (gif.n_frames, gif.width, gif.info["loop"]) == (3, 160, 0)


@pytest.mark.parametrize("kind", figures.FIGURES)
def test_a_figure_is_written_in_the_format_asked_for_and_always_in_the_same_bytes(kind, monkeypatch):
    def draw() -> bytes:
        image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        figure = figures.attention_figure(image, np.ones((1, 4)), (2, 2), r"a $\nonsense{ name")
        return figures.figure_file(figure, kind)

    content = draw()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert draw() == content


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
@pytest.mark.parametrize("fps", [0.5, 10, 50])
def test_an_mp4_gives_its_pages_back(tmp_path, size, fps):
    rng = np.random.default_rng(0)
    pages = [np.full((*size, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(4)]
    (tmp_path / "video.mp4").write_bytes(figures.video_file(pages, fps, "mp4"))
    video = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-3)
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    assert len(frames) == len(pages)
    for page, frame in zip(pages, frames, strict=True):
        assert frame.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
        assert np.abs(frame[8:32, 8:32].astype(int) - page[8:32, 8:32]).mean() < 8


@pytest.mark.parametrize("name", ["a", "a.jpg", ".png", "a.png.gz", "png", "a."])
def test_a_name_whose_ending_cannot_be_written_is_refused_with_those_that_can(name):
    with pytest.raises(UserError, match=r"its ending decides the format; end it in \.png, \.svg or \.pdf"):
        figures.format_of(Path(name), figures.FIGURES)
    assert figures.format_of(Path("A.PnG"), figures.FIGURES) == "png"


def test_overlay_leaves_the_rest_and_tells_objects_apart():
    image = np.full((20, 20, 3), 128, np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[2:8, 2:8], labels[11:18, 11:18] = 1, 2
    out = figures.overlay(image, labels)
    assert (out[0, 15] == 128).all() and (out[4, 4] != out[14, 14]).any() and (out[4, 4] != 128).any()
