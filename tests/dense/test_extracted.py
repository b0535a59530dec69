"""Windows extracted once: whatever the batches and processes, the same windows in the same order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.segmentation import ColourBackbone, Pictures

from dinobench.context import LocalContext
from dinobench.dense.extracted import ExtractedWindows
from dinobench.dense.reading import MapReader
from dinobench.dense.segmenter import SlidingView
from dinobench.errors import UserError

VIEW = SlidingView(32, 0, 32, 16)


def windows(split, folder, ctx, stride=4):
    return ExtractedWindows(split, VIEW, MapReader(ColourBackbone()), stride, folder, ctx, batch=4, steps=5)


def test_windows_are_those_of_the_images_in_turn(tmp_path):
    split = Pictures([(32, 64), (64, 32), (40, 48)])
    extracted = windows(split, tmp_path, LocalContext())
    counts = [len(VIEW.windows(*VIEW.sizes(*size)[0])) for size in split.sizes]
    assert len(extracted) == sum(counts) == 8
    extracted.order._pass = 0, np.arange(len(extracted))
    first = next(extracted.load(0))
    view = VIEW.normalise(torch.from_numpy(VIEW(split.load(0))[0])[None])
    known = ColourBackbone().feature_map(VIEW.windows(32, 64).cut(view))
    torch.testing.assert_close(first.maps[:2], known[:2], atol=2e-3, rtol=2e-3)
    np.testing.assert_array_equal(first.truth[1], split.labels(0)[2::4, 18:48:4])


def test_neither_batches_nor_processes_change_them(tmp_path):
    split = Pictures([(32, 64), (64, 32), (40, 48), (32, 64), (33, 32)])
    one = windows(split, tmp_path / "one", LocalContext(batch_size=3))
    parts = on_processes(2, lambda ctx: windows(split, tmp_path / "two", ctx))
    for other in (*parts, windows(split, tmp_path / "three", LocalContext(batch_size=1))):
        for a, b in zip(one.load(0), other.load(0), strict=True):
            assert torch.equal(a.maps, b.maps) and torch.equal(a.truth, b.truth)


def test_broken_images_are_named_or_left_out(tmp_path):
    split = Pictures([(32, 32)] * 3, broken=(1,))
    with pytest.raises(UserError, match="1 of 3 images of train cannot be read: i1"):
        windows(split, tmp_path, LocalContext())
    ctx = LocalContext(skip_broken=True)
    assert len(windows(split, tmp_path, ctx)) == 2 and ctx.broken == {"train/i1"}
