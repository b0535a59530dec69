from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinobench.data.object_labels import check_prediction, later_labels
from dinobench.errors import UserError


def mask(*values):
    """A mask with an area of each value."""
    return np.repeat(np.array([[0, *values]], np.uint8), 9, axis=1).repeat(9, axis=0)


@given(st.integers(1, 9), st.sets(st.integers(1, 255), max_size=9))
def test_a_prediction_passes_exactly_when_its_labels_are_the_videos(objects, values):
    beyond = {v for v in values if objects < v < 255}
    only_void = values == {255}
    if beyond or only_void:
        with pytest.raises(UserError, match=r"p\.png: .*save") as error:
            check_prediction("p.png", mask(*sorted(values)), objects, binary=False)
        assert "\n" not in str(error.value)
    else:
        check_prediction("p.png", mask(*sorted(values)), objects, binary=False)


@given(st.integers(1, 20), st.sets(st.integers(1, 40), max_size=10))
def test_labels_of_a_later_mask_that_the_first_one_lacks(objects, values):
    assert later_labels("m.png", mask(*sorted(values)), objects, binary=False) == sorted(
        v for v in values if v > objects
    )


def test_void_is_no_label_and_levels_between_are_none_in_a_mask_of_0_and_255():
    assert later_labels("m.png", mask(255), 1, binary=True) == []
    with pytest.raises(UserError, match="values 7, 100 between 0 and 255"):
        later_labels("m.png", mask(7, 100, 255), 1, binary=True)
