from __future__ import annotations

import numpy as np
import pytest
from helpers.fakes import FakeSplit
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.data.subsets import Subset, draw_digest, hold_out, low_shot
from dinobench.errors import UserError

LABELS = st.lists(st.integers(0, 4), min_size=6, max_size=80).map(np.array)


@settings(deadline=None, max_examples=50)
@given(LABELS, st.floats(0.05, 0.5), st.integers(0, 5))
def test_hold_out_is_stratified_and_seeded(labels, fraction, seed):
    learn, held = hold_out(labels, fraction, seed)
    assert sorted([*learn, *held]) == list(range(len(labels)))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        taken = int((labels[held] == label).sum())
        assert taken == (max(1, round(fraction * count)) if count > 1 else 0) < count
    again = hold_out(labels, fraction, seed)
    assert (again[0] == learn).all() and (again[1] == held).all()


def test_hold_out_needs_images_to_spare():
    with pytest.raises(UserError, match="one per class"):
        hold_out(np.arange(7), 0.1, 0)


@settings(deadline=None, max_examples=50)
@given(LABELS, st.integers(1, 20), st.integers(0, 5))
def test_low_shot_takes_as_many_of_every_class(labels, n, seed):
    drawn = low_shot(labels, seed, n_per_class=n)
    assert (np.diff(drawn) > 0).all()
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[drawn] == label).sum() == min(n, count)
    share = low_shot(labels, seed, fraction=0.5)
    assert set(labels[share]) == set(labels)


def test_draws_differ_by_seed_and_say_so():
    labels = np.repeat(np.arange(10), 100)
    one, other = (low_shot(labels, seed, n_per_class=5) for seed in (0, 1))
    assert draw_digest(one) != draw_digest(other) == draw_digest(other.copy())


def test_subset_is_a_split():
    whole = FakeSplit(10)
    part = Subset(whole, np.array([7, 2]), "part")
    assert (len(part), list(part.ids)) == (2, ["images/7.png", "images/2.png"])
    assert list(part.labels) == [whole.labels[7], whole.labels[2]]
    assert part.load(0).getpixel((0, 0)) == whole.load(7).getpixel((0, 0))
    assert part.fingerprint not in (whole.fingerprint, Subset(whole, np.array([2, 7]), "part").fingerprint)
