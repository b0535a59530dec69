from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from dinobench import registry
from dinobench.compare import published


def test_every_figure_names_its_source_and_is_a_per_cent():
    assert len(published.FIGURES) > 90
    releases = published.LOST_README, published.TOKENCUT_README, published.HUMMINGBIRD_README
    for figure in published.FIGURES:
        assert figure.source.startswith((published.DINO, published.DINO_README, published.DINOV2_README, *releases))
        assert 0 < figure.value < 100 and figure.model and figure.dataset
    places = [(f.model, f.protocol, f.dataset, f.metric) for f in published.FIGURES]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", sorted({f.protocol for f in published.FIGURES}))
def test_figures_are_of_metrics_that_the_protocols_have_and_headlines_are_primary(name):
    protocol = registry.load(name)
    declared = [m for config in protocol.profiles.values() for m in protocol.metrics(config)]
    for figure in (f for f in published.FIGURES if f.protocol == name):
        metric = next(m for m in declared if fnmatchcase(figure.metric, m.name))
        assert metric.unit == "%" and metric.primary == figure.headline


def test_the_two_releases_are_what_their_readmes_say():
    values = {(f.model, f.protocol): f.value for f in published.FIGURES if f.dataset == "ImageNet-1k" and f.checked}
    assert values["DINO ViT-S/16", "knn"] == 74.5 and values["DINO ViT-B/8", "linear"] == 80.1
    assert values["DINOv2 ViT-g/14", "knn"] == 83.5 and values["DINOv2 ViT-L/14", "linear"] == 86.3


def test_discovery_s_two_programs_stand_apart():
    values = {(f.model, f.dataset): f.value for f in published.FIGURES if f.protocol == "discovery"}
    assert values["DINO ViT-S/16, LOST", "VOC 2007"] == 61.9 and values["DINO ViT-S/16, TokenCut", "COCO20k"] == 58.8


def test_davis_j_and_f_average_to_j_and_f():
    davis = {(f.arch, f.metric): f.value for f in published.FIGURES if f.protocol == "davis"}
    for arch in {arch for arch, _ in davis}:
        assert davis[arch, "J&F"] == pytest.approx((davis[arch, "J_mean"] + davis[arch, "F_mean"]) / 2, abs=0.051)


def test_by_protocol_and_metric():
    assert {f.metric for f in published.published_scores(["davis"])} == {"J&F"}
    assert {f.metric for f in published.published_scores(["davis"], ["J*"])} == {"J&F", "J_mean"}
    assert not published.published_scores([]) and not published.published_scores(["knn"], ["mAP"])
