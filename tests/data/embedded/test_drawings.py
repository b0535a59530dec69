"""Drawings: the same every time, as many of every kind, with masks that are exact."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dinobench.data.embedded import drawings
from dinobench.data.embedded.drawings import KINDS, SIDE, SURFACES, TEST, TRAIN, paint, random_thing
from dinobench.data.embedded.shapes import KINDS as OUTLINES


@pytest.fixture(scope="module")
def drawn():
    return drawings.drawings()


def test_drawings_are_the_same_every_time(drawn):
    again = drawings.drawings("again")
    assert again.fingerprint == drawn.fingerprint and again.name == "again"
    np.testing.assert_array_equal(drawings.draw(TRAIN, 5)[0], drawn.test.images[:5])


def test_as_many_of_every_kind_and_none_twice(drawn):
    assert (len(drawn.train), len(drawn.test)) == (TRAIN, TEST)
    for split in (drawn.train, drawn.test):
        assert set(np.bincount(split.labels)) == {len(split) // len(KINDS)}
        assert split.images.shape[1:] == (SIDE, SIDE, 3)
    pixels = np.concatenate([drawn.train.images, drawn.test.images])
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) == TRAIN + TEST
    assert len(drawn.classes) == len(set(drawn.classes)) == len(KINDS)


def test_every_kind_has_an_outline_and_a_surface_of_its_own():
    assert len(set(KINDS)) == len(KINDS)
    assert {outline for outline, _ in KINDS} == set(OUTLINES)
    assert sorted(surface for _, surface in KINDS) == sorted(SURFACES)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_masks_are_exact(kind):
    rng = np.random.default_rng(kind)
    behind = np.full((SIDE, SIDE, 3), 128)
    thing = dataclasses.replace(random_thing(rng, kind, SIDE, SIDE, SIDE), light=np.full(3, 255), dark=np.zeros(3, int))
    image, labels = paint([thing], behind, np.zeros((SIDE, SIDE), int))
    np.testing.assert_array_equal((image != behind).any(axis=-1), labels > 0)
    np.testing.assert_array_equal(labels > 0, thing.shape.inside(SIDE, SIDE))
    bright = (image[labels > 0] == 255).all(axis=-1).mean()
    assert bright == 0 if KINDS[kind][1] == "plain" else 0.1 < bright < 0.9


def test_a_surface_turns_with_its_thing():
    """By a right angle, about a pixel's corner."""
    thing = random_thing(np.random.default_rng(0), 3, SIDE, SIDE, SIDE)
    behind, noise = np.full((SIDE, SIDE, 3), 128), np.zeros((SIDE, SIDE), int)
    centred = dataclasses.replace(thing.shape, x=SIDE / 2, y=SIDE / 2, angle=0.0)
    turned = dataclasses.replace(centred, angle=np.pi / 2)
    one, other = (paint([dataclasses.replace(thing, shape=s)], behind, noise)[0] for s in (centred, turned))
    assert (np.rot90(one, -1) == other).mean() > 0.97  # a pixel's middle on an edge falls on either side


def test_masks_and_boxes_are_of_the_test_drawings(drawn):
    masks, boxes = drawings.masks(), drawings.boxes().select()
    assert list(masks.ids("instances")) == list(boxes.ids) == list(drawn.test.ids)
    for i in (0, 7, TEST - 1):
        name = masks.ids("classes")[i]
        np.testing.assert_array_equal(np.asarray(masks.load(name)), drawn.test.images[i])
        one, kind = masks.masks(name, "instances"), masks.masks(name, "classes")
        assert one.ids == (1,) and kind.ids == (1 + drawn.test.labels[i],)
        np.testing.assert_array_equal(one.masks, kind.masks)
        left, top, right, bottom = boxes.boxes[i][0].astype(int)
        assert one.masks[0, top:bottom, left:right].sum() == one.masks.sum() > 0
        assert one.masks[0, top].any() and one.masks[0, :, right - 1].any()
    assert masks.fingerprint == boxes.fingerprint != drawn.fingerprint
