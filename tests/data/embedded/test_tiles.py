from __future__ import annotations

import numpy as np

from dinobench.data.embedded import tiles


def test_copies_belong_to_their_originals():
    data = tiles.copies()
    assert len(data.originals) == 2 * tiles.COLUMNS * tiles.ROWS and data.fingerprint == tiles.copies().fingerprint
    for block in data.blocks:
        np.testing.assert_array_equal(block.labels, np.arange(len(data.originals)))
        assert not any(np.array_equal(a, b) for a, b in zip(block.images, data.originals.images, strict=True))


def test_places_have_three_easy_views_two_hard_and_a_sliver():
    data = tiles.places()
    assert data.fingerprint == tiles.places().fingerprint
    truth = [np.concatenate([t["easy"], t["hard"], t["junk"]]) for t in data.truth]
    assert all(len(part) == n for t in data.truth for part, n in zip(t.values(), (3, 2, 1), strict=True))
    assert sorted(np.concatenate(truth)) == list(range(len(data.database)))
    for box, image in zip(data.boxes, data.queries.images, strict=True):
        left, top, right, bottom = box
        assert 0 <= left < right <= image.shape[1] and 0 <= top < bottom <= image.shape[0]
