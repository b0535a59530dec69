from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dinobench.data import leaks

IMAGES = st.lists(st.integers(0, 6), max_size=12)


def pictures(colours: list[int]) -> list[np.ndarray]:
    return [np.full((2, 2, 3), colour, np.uint8) for colour in colours]


@given(IMAGES, IMAGES)
def test_those_of_test_that_are_in_train_whatever_their_number(train, test):
    found = leaks.leaked(leaks.digests(pictures(train)), leaks.digests(pictures(test)))
    assert found.tolist() == [i for i, colour in enumerate(test) if colour in train]


def test_files_that_could_not_be_read_match_nothing():
    unread = np.zeros((3, 32), np.uint8)
    assert not len(leaks.leaked(unread, unread))


def test_the_note_counts_and_names_one():
    assert leaks.note(["a", "b"], np.array([], np.int64)) is None
    note = leaks.note([f"{i}.png" for i in range(2000)], np.array([7, 9]))
    assert note == "leaked images: 2 of 2,000 test images are in train too, byte for byte, such as 7.png"
