from __future__ import annotations

import numpy as np

from dinobench.data.embedded import shape_videos


def test_videos_are_the_same_every_time():
    a, b = shape_videos.videos(), shape_videos.videos()
    assert a.fingerprint == b.fingerprint
    for x, y in zip(a.videos, b.videos, strict=True):
        np.testing.assert_array_equal(x.pixels, y.pixels)


def test_videos_have_their_objects_in_every_frame():
    data = shape_videos.videos()
    assert [video.objects for video in data.videos] == list(shape_videos.OBJECTS)
    for video in data.videos:
        assert len(video) == len(video.names) == shape_videos.FRAMES
        for i in range(len(video)):
            assert set(np.unique(video.mask(i))) == set(range(video.objects + 1))
            assert video.frame(i).shape == (*video.size, 3)
        assert (video.mask(0) != video.mask(1)).any()
