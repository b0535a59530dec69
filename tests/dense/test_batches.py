"""Features of augmented crops: the loader's way of carrying labels, and what a step consists of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.segmentation import ColourBackbone, Pictures

from dinobench.context import LocalContext
from dinobench.dense.augment import SegmentationCrop
from dinobench.dense.batches import labelled_batches
from dinobench.dense.reading import MapReader
from dinobench.errors import UserError
from dinobench.training.loader import MicroBatch
from dinobench.training.sampler import Order

AUGMENT = SegmentationCrop(32, 0, (0.8, 1.5), 32)


def batches(split, ctx, steps=3, batch=4, stride=1):
    order = Order(len(split), batch, ctx.seed, steps)
    return labelled_batches(split, AUGMENT, MapReader(ColourBackbone()), order, stride, ctx)


def test_labels_travel_as_the_fourth_band():
    split = Pictures([(20, 30), (24, 16)])
    image = batches(split, LocalContext()).loader.split.load(1)
    np.testing.assert_array_equal(image[..., :3], np.asarray(split.load(1)))
    np.testing.assert_array_equal(image[..., 3], split.labels(1))


def test_a_step_is_the_same_whenever_it_is_begun_and_however_it_is_loaded():
    split = Pictures([(32, 64), (64, 32), (40, 48), (32, 64), (33, 32)])
    whole = list(batches(split, LocalContext()).load(0))
    assert len(whole) == 3 and whole[0].maps.shape == (4, 3, 4, 4) and whole[0].truth.shape == (4, 32, 32)
    later = list(batches(split, LocalContext(batch_size=1, workers=2)).load(1))
    for a, b in zip(whole[1:], later, strict=True):
        assert torch.equal(a.truth, b.truth)
        torch.testing.assert_close(a.maps, b.maps)
    assert not torch.equal(next(batches(split, LocalContext(seed=1)).load(0)).maps, whole[0].maps)


def test_labels_are_thinned_and_maps_may_be_gone_back_through():
    split = Pictures([(32, 64)] * 4)
    (plain,), (thin,) = (list(batches(split, LocalContext(), 1, stride=stride).load(0)) for stride in (1, 4))
    assert torch.equal(thin.truth, plain.truth[:, 2::4, 2::4])
    assert not plain.maps.is_inference()


def test_an_image_that_cannot_be_read_is_named_or_left_out():
    split = Pictures([(32, 32)] * 4, broken=(2,))
    with pytest.raises(UserError, match="i2 of train cannot be read"):
        list(batches(split, LocalContext()).load(0))
    left = batches(split, LocalContext(skip_broken=True))
    assert [len(batch.maps) for batch in left.load(0)] == [3, 3, 3] and left.broken == {"i2"}
    nothing = Pictures([(32, 32)] * 2, broken=(0, 1))
    with pytest.raises(UserError, match="no image of a training step can be read"):
        list(batches(nothing, LocalContext(skip_broken=True)).load(0))


def test_a_process_without_an_image_has_nothing_of_the_right_shape():
    split = Pictures([(32, 64)] * 4)
    several = batches(split, LocalContext(), 1)
    (whole,) = list(several.load(0))
    empty = MicroBatch(np.zeros(0, np.int64), (), True)
    nothing = several._step(iter([empty]))
    assert nothing.maps.shape == (0, *whole.maps.shape[1:]) and nothing.truth.shape == (0, *whole.truth.shape[1:])
    assert nothing.truth.dtype == whole.truth.dtype
