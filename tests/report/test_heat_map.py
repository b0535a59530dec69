from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dinobench.compare.cka import BlockSimilarity, Side
from dinobench.report.figures import FIGURES, figure_file
from dinobench.report.heat_map import similarity_figure


def made(rows, columns):
    r = np.random.default_rng(0)
    sides = [Side(n, tuple(f"block {i + 1}" for i in range(k)) if k > 1 else ("feature",))
             for n, k in ((r"$\nonsense{", rows), ("b", columns))]  # fmt: skip
    return BlockSimilarity(*sides, "digits", 60, "cls", r.random((rows, columns)), r.random((rows, columns)) - 0.1)


@pytest.mark.parametrize("kind", FIGURES)
def test_a_heat_map_of_both(kind):
    content = figure_file(similarity_figure(made(12, 3)), kind)
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    if kind == "png":
        assert Image.open(io.BytesIO(content)).width > 500


def test_blocks_are_named_by_their_numbers_and_not_all_of_many():
    figure = similarity_figure(made(1, 40))
    linear, debiased, _ = figure.axes
    assert [linear.get_title(), debiased.get_title()] == ["linear CKA", "debiased CKA"]
    assert [t.get_text() for t in linear.get_xticklabels()] == ["1", "5", "9", "13", "17", "21", "25", "29", "33", "37"]
    assert [t.get_text() for t in linear.get_yticklabels()] == ["feature"]
