"""Nearest-centroid classification: the class whose mean train feature has the largest cosine with the image's.

A whole third-party protocol: its Config, what it measures, what it asks of the feature service, and `run`.
(Mensink et al. 2013, Distance-Based Image Classification, IEEE TPAMI 35(11).)
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch.nn.functional import normalize

from dinobench.data.transforms import ImageTransform
from dinobench.types import Backbone, Context, FeatureRequest, ImageClassification, ImageSplit, Metric, Result, setting


@dataclass(frozen=True)
class Config:
    """What decides a nearest-centroid score."""

    resize: int = setting(256, "shorter side of the image in pixels before the crop")
    crop: int = setting(224, "side of the centre crop in pixels")
    centre: bool = setting(False, "subtract the mean train feature first")


name = "nearest_centroid"
version = 1
summary = "nearest class mean of frozen features"
data = "classification"
requires = frozenset({"features"})
profiles = {"plain": Config(), "centred": Config(centre=True)}


def metrics(config: Config) -> tuple[Metric, ...]:
    return (Metric("top1", primary=True),)


def requests(data: ImageClassification, config: Config, backbone: Backbone) -> list[tuple[ImageSplit, FeatureRequest]]:
    request = FeatureRequest(ImageTransform(resize=config.resize, crop=config.crop))
    return [(data.train, request), (data.test, request)]


def run(backbone: Backbone, data: ImageClassification, config: Config, ctx: Context) -> Result:
    """Score the test images by the centroids of the train images."""
    train, test = (ctx.features(backbone, *asked) for asked in requests(data, config, backbone))
    known, probes = (torch.from_numpy(f.cls[:, -1].copy()) for f in (train, test))  # (n, D)
    if config.centre:
        known, probes = known - known.mean(0), probes - known.mean(0)
    labels = torch.from_numpy(data.train.labels[train.kept])
    known, probes = normalize(known, dim=1), normalize(probes, dim=1)
    centroids = torch.stack([known[labels == c].mean(0) for c in range(len(data.classes))])  # (classes, D)
    right = (probes @ normalize(centroids, dim=1).T).argmax(1) == torch.from_numpy(data.test.labels[test.kept])
    items = pd.DataFrame({"id": [data.test.ids[i] for i in test.kept], "top1": right.numpy()})
    return Result({"top1": 100 * right.double().mean().item()}, items)
