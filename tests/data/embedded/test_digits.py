from __future__ import annotations

import numpy as np

from dinobench.data.embedded.digits import TRAIN, digits


def test_scikit_learns_digits_in_their_own_order():
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), digits()
    images = np.concatenate([ours.train.images, ours.test.images])
    assert (len(ours.train), len(images)) == (TRAIN, 1797) and images.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_allclose(images[..., channel], theirs.images * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(np.concatenate([ours.train.labels, ours.test.labels]), theirs.target)
    assert digits("again").fingerprint == ours.fingerprint
