"""The pace of an extraction is kept with what it was of."""

from __future__ import annotations

import pytest

from dinobench.data import load_dataset
from dinobench.data.transforms import ImageTransform
from dinobench.features import pace
from dinobench.features.service import FeatureService
from dinobench.files import keep
from dinobench.models.loading import load_backbone
from dinobench.runtime import start
from dinobench.types import FeatureRequest


def test_an_extraction_leaves_its_pace(own_cache):
    backbone, data, transform = load_backbone("pixels:4"), load_dataset("digits"), ImageTransform(8, 8)
    service = FeatureService(start("cpu"), own_cache)
    assert pace.recalled("pixels4", data.test, transform) is None
    service.get(backbone, data.test, FeatureRequest(transform))
    (entry,) = (own_cache.parent / "pace").iterdir()
    assert '"images":450' in entry.read_text() and '"device":"cpu"' in entry.read_text()
    entry.unlink()
    service.get(backbone, data.test, FeatureRequest(transform))  # nothing is extracted, and so timed
    assert not list((own_cache.parent / "pace").iterdir())


def test_a_pace_is_of_the_same_architecture_images_and_transform(own_cache):
    data, transform = load_dataset("digits"), ImageTransform(8, 8)
    pace.remember("a", data.test, transform, 450, 9.0, "cpu")
    assert pace.recalled("a", data.test, transform) == pace.Pace(50.0, "cpu")
    others = [("b", data.test, transform), ("a", data.train, transform), ("a", data.test, ImageTransform(9, 8))]
    assert [pace.recalled(*other) for other in others] == [None, None, None]


@pytest.mark.parametrize("stored", [None, [], {}, {"images": 1, "seconds": 0, "device": "cpu"}, {"images": "x"}])
def test_what_is_no_pace_is_none(own_cache, stored):
    data, transform = load_dataset("digits"), ImageTransform(8, 8)
    keep(pace.KIND, pace._key("a", data.test, transform), stored)
    assert pace.recalled("a", data.test, transform) is None
