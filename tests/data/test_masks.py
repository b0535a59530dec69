from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dinobench.data.masks import from_labels


@given(arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 3, 200, 255])))
def test_masks_and_void_are_the_label_map_again(labels):
    found = from_labels(labels)
    assert list(found.ids) == sorted({int(v) for v in labels.ravel()} - {0, 255})
    assert found.masks.shape == (len(found.ids), 5, 7) and found.masks.dtype == bool
    again = np.zeros_like(labels)
    for label, mask in zip(found.ids, found.masks, strict=True):
        again[mask] = label
    if found.void is not None:
        again[found.void] = 255
    np.testing.assert_array_equal(again, labels)
    assert (found.void is None) == (not (labels == 255).any())
