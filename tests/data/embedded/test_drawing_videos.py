from __future__ import annotations

import numpy as np

from dinobench.data.embedded import drawing_videos


def test_videos_are_the_same_every_time():
    a, b = drawing_videos.videos(), drawing_videos.videos("again")
    assert a.fingerprint == b.fingerprint and b.name == "again"
    for x, y in zip(a.videos, b.videos, strict=True):
        np.testing.assert_array_equal(x.pixels, y.pixels)


def test_videos_have_their_objects_in_every_frame():
    data = drawing_videos.videos()
    assert [video.objects for video in data.videos] == list(drawing_videos.OBJECTS)
    for video in data.videos:
        assert len(video) == len(video.names) == drawing_videos.FRAMES
        for i in range(len(video)):
            areas = np.bincount(video.mask(i).ravel(), minlength=video.objects + 1)
            assert len(areas) == video.objects + 1 and areas.min() > 50  # of 12,288 pixels
            assert video.frame(i).shape == (*video.size, 3)
        assert (video.mask(0) != video.mask(drawing_videos.FRAMES - 1)).mean() > 0.02
