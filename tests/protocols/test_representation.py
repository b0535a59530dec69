"""The protocol beside its measures computed here, over processes, draws and bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.contexts import on_processes
from helpers.fakes import FakeBackbone, FakeSplit
from helpers.voc import make_voc2007
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import dinobench
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.errors import UserError
from dinobench.metrics import representation as measures
from dinobench.models.loading import load_backbone
from dinobench.protocols import representation
from dinobench.protocols.representation import Config, metrics, profiles, requests, run, select
from dinobench.runner import with_intervals

SMALL = Config(resize=8, crop=8, split="test", alpha_range=(5, 40), starts=2)
VIEWS = dataclasses.replace(SMALL, views=3, view_images=40, view_scale=(0.3, 1.0))


@pytest.fixture(scope="module")
def pixels():
    return load_backbone("pixels:8")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def viewed(pixels, digits):
    return run(pixels, digits, VIEWS, LocalContext())


def test_measures_are_those_of_the_features(pixels, digits, viewed):
    ctx = LocalContext()
    ((split, request),) = requests(digits, SMALL, pixels)
    x = ctx.features(pixels, split, request).cls[:, -1].astype(np.float64)
    assert split is digits.test and viewed.metrics["rankme"] == pytest.approx(measures.rankme(x))
    assert viewed.metrics["alpha_req"] == pytest.approx(measures.alpha_req(x, 5, 40))
    assert viewed.metrics["uniformity"] == pytest.approx(measures.uniformity(x))
    assert viewed.metrics["twonn"] == pytest.approx(measures.twonn(x))
    kmeans = [KMeans(10, n_init=1, random_state=s).fit(measures.unit(x).astype(np.float32)) for s in (0, 1)]
    pred = min(kmeans, key=lambda k: k.inertia_).labels_
    assert viewed.metrics["cluster_accuracy"] == pytest.approx(100 * measures.cluster_accuracy(pred, split.labels))
    assert viewed.metrics["cluster_ari"] == pytest.approx(100 * adjusted_rand_score(split.labels, pred))
    assert viewed.metrics["cluster_accuracy"] > 60  # digits are told apart by their pixels


def test_every_metric_has_its_interval_or_says_that_it_has_none(viewed):
    values = with_intervals("representation", metrics(VIEWS), viewed, seed=0)  # the runner's own checks
    without = {name for name, value in values.items() if value.ci_low is None}
    assert without == {m for m in values if m.startswith(("rankme", "alpha", "twonn", "lidar"))}
    assert "have no intervals" in viewed.notes[0] and "450 of the 450 images of test" in viewed.notes[0]
    assert all(v.ci_low <= v.value <= v.ci_high for name, v in values.items() if name not in without)
    assert values["alignment"].n == values["lidar"].n == 40 and values["rankme"].n == 450
    assert [m.name for m in metrics(SMALL)] == [m.name for m in metrics(VIEWS)][:-3]
    assert [m.name for m in metrics(SMALL) if m.primary] == ["rankme"]


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_equal_one(pixels, digits, viewed, processes):
    for other in on_processes(processes, lambda ctx: run(pixels, digits, VIEWS, ctx)):
        assert other.metrics == pytest.approx(viewed.metrics)
        assert other.items.equals(viewed.items) and other.intervals.keys() == viewed.intervals.keys()


def test_views_hang_on_the_seed_and_are_more_alike_where_less_is_cropped(pixels, digits):
    few = dataclasses.replace(VIEWS, images=100, starts=1)
    whole = dataclasses.replace(few, view_scale=(1.0, 1.0))
    runs = [(few, 0), (few, 0), (few, 1), (whole, 0)]
    one, again, other, alike = (run(pixels, digits, c, LocalContext(seed=s)).metrics["alignment"] for c, s in runs)
    assert one == again != other and alike < one


def test_a_draw_of_images_is_the_seeds(pixels, digits):
    config = dataclasses.replace(SMALL, images=200)
    first, second = (select(digits, config, seed) for seed in (0, 1))
    assert len(first) == 200 and first.fingerprint != second.fingerprint
    assert np.array_equal(first.labels, digits.test.labels[first.indices])
    assert select(digits, dataclasses.replace(SMALL, images=0)) is digits.test
    assert not requests(digits, config, pixels)
    result = run(pixels, digits, config, LocalContext())
    assert len(result.items) == 200 and "200 of the 450" in result.notes[0]
    assert result.items["id"].tolist() == list(first.ids)


def test_more_clusters_are_purer(pixels, digits):
    result = run(pixels, digits, dataclasses.replace(SMALL, clusters=30), LocalContext())
    assert result.items["cluster"].nunique() == 30
    assert result.metrics["cluster_purity"] > result.metrics["cluster_accuracy"]


def test_features_that_are_all_alike_are_refused(digits):
    class Constant(FakeBackbone):
        def features(self, x):
            return super().features(x) * 0 + 1

    config = dataclasses.replace(SMALL, alpha_range=(0, 2))
    with pytest.raises(UserError, match=r"fake on test: all features are the same"):
        run(Constant(), digits, config, LocalContext())


def test_images_that_cannot_be_read_are_left_out_where_that_is_allowed(digits):
    data = dataclasses.replace(digits, classes=("a", "b"), test=FakeSplit(40, broken=(3, 7)))
    config = dataclasses.replace(VIEWS, alpha_range=(0, 3))
    with pytest.raises(UserError, match=r"2 of 40 images of test cannot be read"):
        run(FakeBackbone(), data, config, LocalContext())
    ctx = LocalContext(skip_broken=True)
    result = run(FakeBackbone(), data, config, ctx)
    assert len(result.items) == 38 == result.items["alignment"].notna().sum()
    assert ctx.broken == {"test/images/3.png", "test/images/7.png"} and "38 of the 40" in result.notes[0]
    with_intervals("representation", metrics(config), result, seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("views=1", "2 or more"),
        ("clusters=1", "2 or more"),
        ("images=-1", "0 (all) or more"),
        ("starts=0", "1 or more"),
        ("uniformity_t=0", "above 0"),
        ("alpha_range=5,6", "two eigenvalues"),
        ("view_scale=0,1", "above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, words):
    name, value = change.split("=")
    with pytest.raises(UserError) as refused:
        resolve_config(representation, None, {name: value})
    assert words in str(refused.value)


def test_more_than_the_images_allow_is_refused_before_features_are_made(digits):
    backbone = FakeBackbone()
    for change, words in (({"alpha_range": (1, 4)}, "there are 3 eigenvalues"), ({"clusters": 451}, "451 clusters")):
        config = dataclasses.replace(SMALL, **{"alpha_range": (0, 3), **change})
        with pytest.raises(UserError, match=words):
            run(backbone, digits, config, LocalContext())
    assert backbone.images == 0


def test_profiles():
    assert list(profiles) == ["default", "views"] and profiles["views"].views == 50


def test_images_without_labels_are_measured_without_clusters(pixels, tmp_path):
    folder, r = tmp_path / "photos", np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    for i in range(20):
        Image.fromarray(r.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / ("deep" if i % 2 else ".") / f"{i}.png")
    settings = {"alpha_range": "0,5", "resize": "8", "crop": "8"}
    (record,) = dinobench.run("representation", "pixels:8", str(folder), settings=settings, out=tmp_path / "results")
    assert record.dataset == "photos" and record.metrics["rankme"].n == 20 and record.metrics["uniformity"].ci_low
    assert not any(name.startswith("cluster") for name in record.metrics)
    assert "no clusters: there are no classes to score them by" in record.notes
    for change, words in (
        ({"clusters": "3"}, "has no classes to score clusters by"),
        ({"split": "test"}, "no test im"),
    ):
        with pytest.raises(UserError, match=f"photos: .*{words}"):
            dinobench.run("representation", "pixels:8", str(folder), settings={**settings, **change}, out=None)


def test_images_of_several_classes_have_no_clusters(pixels, tmp_path):
    data = representation.select_data(load_dataset(str(make_voc2007(tmp_path)[0])), SMALL)
    assert data.classes == () and data.verdicts is None
    result = run(pixels, data, dataclasses.replace(SMALL, split="train", alpha_range=(0, 5)), LocalContext())
    assert list(result.items.columns) == ["id"] and "cluster_accuracy" not in result.metrics
