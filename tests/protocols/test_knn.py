from __future__ import annotations

import dataclasses
import json
import tarfile

import numpy as np
import pytest
import torch
from helpers.fakes import FakeBackbone
from helpers.golden import NUMBERS
from helpers.paths import GOLDEN
from helpers.weights import save, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

import dinobench
from dinobench.algorithms.nearest_neighbours import search
from dinobench.protocols.knn import Config, _draw, metrics, profiles, run, version_of, vote
from dinobench.results.items import read_items
from dinobench.types import ComputeOptions, Features, ImageClassification


def clustered(seed, n_train, n_test, dim, classes, spread):
    """The golden values' vectors: train, test, their labels."""
    r = np.random.default_rng(seed)
    centres = r.standard_normal((classes, dim))
    y = r.integers(0, classes, n_train + n_test)
    x = centres[y] + spread * r.standard_normal((n_train + n_test, dim))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return x[:n_train], x[n_train:], torch.from_numpy(y[:n_train]), torch.from_numpy(y[n_train:])


def shares(train, test, labels, truth, classes, config):
    """(top-1, top-5) of every k, in per cent."""
    similarity, index = search(test, train, min(max(config.k), len(train)), normalise=True)
    ranks = vote(similarity, labels[index], truth, classes, config)[..., 0]
    return {k: tuple(100 * (ranks[:, i] < min(n, k)).double().mean().item() for n in (1, 5))
            for i, k in enumerate(config.k)}  # fmt: skip


KNN = NUMBERS["knn"]
SHAPES = sorted({tuple(e[f] for f in ("seed", "n_train", "n_test", "dim", "classes", "spread")) for e in KNN})


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"seed{s[0]}")
def test_golden_numbers(shape):
    entries = [
        e for e in KNN if tuple(e[f] for f in ("seed", "n_train", "n_test", "dim", "classes", "spread")) == shape
    ]
    data = clustered(*shape)
    for temperature in {e["temperature"] for e in entries}:
        asked = [e for e in entries if e["temperature"] == temperature]
        for weighting in ("exp", "softmax"):
            config = Config(k=tuple(e["k"] for e in asked), temperature=temperature, weighting=weighting)
            found = shares(*data, shape[4], config)
            for e in asked:
                one_image = 100 / e["n_test"] + 1e-9
                assert found[e["k"]] == pytest.approx((e["top1"], e["top5"]), abs=one_image), e


@pytest.fixture(scope="module")
def cifar(shared_data, tmp_path_factory):
    """The first 60 train and 20 test images of each class, as ImageFolder."""
    folder = tmp_path_factory.mktemp("cifar")
    with tarfile.open(shared_data / "cifar10_subset.tar") as archive:
        files: dict[str, list[str]] = {}
        for name in sorted(n for n in archive.getnames() if n.endswith(".png")):
            files.setdefault(name.rpartition("/")[0], []).append(name)
        wanted = {n for c, names in files.items() for n in names[: 60 if c.split("/")[1] == "train" else 20]}
        archive.extractall(folder, [m for m in archive.getmembers() if m.name in wanted], filter="data")
    return folder / "cifar10"


@pytest.mark.slow
def test_golden_cifar10_subset(cifar, tmp_path):
    golden = json.loads((GOLDEN / "knn_cifar10_subset.json").read_text())
    weights = save(vit(width=192, depth=12, patch=16, image=224), tmp_path / "vit_tiny.pth")
    (record,) = dinobench.run("knn", weights, str(cifar), out=tmp_path / "out", compute=ComputeOptions(device="cpu"))
    for k, (top1, top5) in golden["top1_top5_by_k"].items():
        for name, expected in ((f"top1@k{k}", top1), (f"top5@k{k}", top5)):
            assert record.metrics[name].value == pytest.approx(expected, abs=100 / 200 + 1e-9), name
    assert record.metrics["top1@k20"].n == 200 and record.primary == "top1@k20"

    items = read_items(tmp_path / "out", record)
    assert items is not None and len(items) == 200
    assert 100 * items["top1@k20"].mean() == pytest.approx(record.metrics["top1@k20"].value)
    assert ((items["prediction@k20"] == items["label"]) == items["top1@k20"]).all()

    from dinobench.data import load_dataset

    backbone, config = dinobench.load_backbone(weights), Config()
    split = load_dataset(str(cifar)).test
    transform = config.transform()
    with torch.inference_mode():
        x = transform.normalise(torch.from_numpy(transform(split.load(0)))[None])
        first = torch.nn.functional.normalize(backbone.features(x), dim=1)[0]
    np.testing.assert_allclose(first[:8], golden["first_test_feature_head"], atol=1e-5)


@pytest.mark.parametrize("k", [1, 7, 50])
def test_agrees_with_scikit_learn(k):
    train, test, labels, truth = clustered(11, 600, 150, 16, 7, 2.0)
    model = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train, labels)
    similarity, index = search(test, train, k, normalise=True)
    votes = vote(similarity, labels[index], truth, 7, Config(k=(k,)))
    np.testing.assert_array_equal(votes[:, 0, 1].numpy(), model.predict(test))
    probabilities = model.predict_proba(test)
    own = probabilities[np.arange(150), truth][:, None]
    np.testing.assert_array_equal(votes[:, 0, 0].numpy() == 0, (probabilities <= own).all(axis=1))
    if k > 1:  # with one neighbour all but one class have equal, zero votes
        better = (probabilities > own + 1e-6).sum(axis=1)
        assert (votes[:, 0, 0].numpy() >= better).all()


small = dict(deadline=None, max_examples=15)
seeds = st.integers(0, 10_000)


@settings(**small)
@given(seeds, st.floats(0.02, 1.0))
def test_top5_is_never_below_top1_and_all_classes_are_always_right(seed, temperature):
    data = clustered(seed, 60, 30, 5, 5, 2.0)
    for k, (top1, top5) in shares(*data, 5, Config(k=(1, 3, 5, 20), temperature=temperature)).items():
        assert top5 >= top1
        if k >= 5:
            assert top5 == 100


@settings(**small)
@given(seeds)
def test_softmax_ranks_as_exp_does(seed):
    data = clustered(seed, 80, 30, 6, 4, 2.0)
    assert shares(*data, 4, Config(k=(1, 5, 30))) == shares(*data, 4, Config(k=(1, 5, 30), weighting="softmax"))


@settings(**small)
@given(seeds, st.floats(0.01, 1000))
def test_neither_order_nor_scale_of_train_matters(seed, scale):
    train, test, labels, truth = clustered(seed, 80, 30, 6, 4, 2.0)
    order = np.random.default_rng(seed).permutation(80)
    config = Config(k=(1, 5, 30))
    expected = shares(train, test, labels, truth, 4, config)
    assert shares(train[order], test, labels[order], truth, 4, config) == expected
    scaled = shares(train * np.float32(scale), test * np.float32(3), labels, truth, 4, config)
    for k, values in scaled.items():  # rounding may turn over one vote in a near tie
        assert values == pytest.approx(expected[k], abs=100 / 30 + 1e-9)


@settings(**small)
@given(seeds)
def test_the_order_of_k_is_the_order_of_columns(seed):
    train, test, labels, truth = clustered(seed, 60, 20, 6, 4, 2.0)
    similarity, index = search(test, train, 30, normalise=True)
    up = vote(similarity, labels[index], truth, 4, Config(k=(1, 5, 30)))
    down = vote(similarity, labels[index], truth, 4, Config(k=(30, 1, 5)))
    assert torch.equal(up[:, [2, 0, 1]], down)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 40), st.integers(1, 30), st.sampled_from([1e-4, 0.07, 10.0]), st.booleans())
def test_votes_of_few_voters_among_many_classes_are_those_of_the_whole_table(seed, classes, m, temperature, softmax):
    """The table of all classes, filled voter by voter, ranked by a stable sort; votes that vanish tie with none."""
    r = np.random.default_rng(seed)
    similarity = torch.from_numpy(-np.sort(-r.choice(np.linspace(0, 1, 5), (8, m)), axis=1)).float()
    neighbours, truth = (torch.from_numpy(r.integers(0, classes, shape)) for shape in ((8, m), 8))
    config = Config(k=(1, 3, 50), temperature=temperature, weighting="softmax" if softmax else "exp")
    found = vote(similarity, neighbours, truth, classes, config)
    weights = torch.exp((similarity - similarity[:, :1]) / temperature)
    if softmax:
        weights = weights / weights.sum(dim=1, keepdim=True)
    for column, k in enumerate(config.k):
        table = np.zeros((8, classes), np.float32)
        for row in range(8):
            for c, w in zip(neighbours[row, :k].tolist(), weights[row, :k].numpy(), strict=True):
                table[row, c] += w
        order = np.argsort(-table, axis=1, kind="stable")
        assert found[:, column, 1].tolist() == order[:, 0].tolist()
        assert found[:, column, 0].tolist() == (order == truth.numpy()[:, None]).argmax(axis=1).tolist()


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(2, 40), st.integers(1, 30), st.integers(1, 3))
def test_votes_for_some_classes_alone_and_of_several_right_ones(seed, classes, m, several):
    """The table of all classes, cut to the open ones and ranked by a stable sort, whichever way votes are counted."""
    r = np.random.default_rng(seed)
    similarity = torch.from_numpy(-np.sort(-r.choice(np.linspace(0, 1, 5), (8, m)), axis=1)).float()
    neighbours = torch.from_numpy(r.integers(0, classes, (8, m)))
    among = np.sort(r.choice(classes, r.integers(1, classes + 1), replace=False))
    right = [np.sort(r.choice(len(among), min(several, len(among)), replace=False)) for _ in range(8)]
    answers = torch.from_numpy(np.stack([np.pad(a, (0, several - len(a)), constant_values=-1) for a in right]))
    config = Config(k=(1, 3, 50))
    found = vote(similarity, neighbours, answers, classes, config, torch.from_numpy(among))
    weights = torch.exp((similarity - similarity[:, :1]) / config.temperature).numpy()
    for column, k in enumerate(config.k):
        for row in range(8):
            table = np.zeros(classes, np.float32)
            for c, w in zip(neighbours[row, :k].tolist(), weights[row, :k], strict=True):
                table[c] += w
            order = np.argsort(-table[among], kind="stable").tolist()
            assert found[row, column].tolist() == [min(order.index(a) for a in right[row]), among[order[0]]]


def test_votes_among_very_many_classes_take_no_table_of_them():
    """21,841 classes and 50,000 images would be 4.4 GB; a table of a billion classes could not be made at all."""
    found = vote(torch.zeros(3, 2), torch.tensor([[5, 9], [7, 7], [0, 1]]), torch.tensor([9, 10**9, 2]), 2 * 10**9,
                 Config(k=(2,)))  # fmt: skip
    assert found[:, 0].tolist() == [[1, 5], [10**9, 7], [2, 0]]


def test_a_tiny_temperature_does_not_overflow():
    train, test, labels, truth = clustered(1, 60, 20, 6, 4, 2.0)
    found = shares(train, test, labels, truth, 4, Config(k=(1, 50), temperature=1e-4))
    assert found[50][0] == found[1][0]  # the nearest outweighs all others


@settings(**small)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 9))
def test_few_shot_draws_n_of_each_class_the_same_every_time(labels, n, attempt):
    labels = torch.tensor(labels)
    drawn = _draw(labels, n, attempt)
    assert len(set(drawn.tolist())) == len(drawn)
    for label in labels.unique():
        assert (labels[drawn] == label).sum() == min(n, int((labels == label).sum()))
    assert torch.equal(drawn, _draw(labels, n, attempt))


def test_another_try_draws_others():
    assert not torch.equal(
        _draw(torch.zeros(100, dtype=torch.int64), 10, 0), _draw(torch.zeros(100, dtype=torch.int64), 10, 1)
    )


class Given:
    """A context of one process whose features are given."""

    seed, rank, processes, device = 0, 0, 1, torch.device("cpu")

    def __init__(self, features):
        self._features = features

    def shard(self, n):
        return slice(0, n)

    def gather(self, part):
        return part

    def features(self, backbone, split, request):
        return self._features[split.name]

    def progress(self, iterable, description, total=None):
        return iter(iterable)


@dataclasses.dataclass
class Split:
    name: str
    labels: np.ndarray
    ids: list[str]
    fingerprint: str = ""

    def __len__(self):
        return len(self.ids)


def given_data(n_train=60, n_test=20, classes=4, lost=()):
    train, test, labels, truth = clustered(3, n_train, n_test, 6, classes, 1.0)
    splits = [Split(n, y.numpy(), [f"{n}/{i}" for i in range(len(y))]) for n, y in (("train", labels), ("test", truth))]
    kept = np.setdiff1d(np.arange(n_test), lost)
    features = {
        "train": Features(train[:, None], None, np.arange(n_train)),
        "test": Features(test[kept, None], None, kept),
    }
    data = ImageClassification("made", "made", tuple("abcd"[:classes]), *splits, fingerprint="")
    return data, Given(features)


def test_more_neighbours_than_train_images_all_vote_and_a_note_says_so():
    data, ctx = given_data(n_train=30)
    result = run(FakeBackbone(), data, Config(k=(20, 30, 100, 200)), ctx)
    assert result.metrics["top1@k30"] == result.metrics["top1@k100"] == result.metrics["top1@k200"]
    assert result.notes == ["k = 100, 200: only 30 train images, all of them vote"]
    assert not run(FakeBackbone(), data, Config(k=(20, 30)), ctx).notes


def test_items_are_named_and_their_mean_is_the_metric():
    data, ctx = given_data(lost=(0, 7))
    result = run(FakeBackbone(), data, Config(k=(5, 20)), ctx)
    assert result.items is not None
    assert list(result.items["id"]) == [f"test/{i}" for i in range(20) if i not in (0, 7)]
    for name, value in result.metrics.items():
        assert 100 * result.items[name].mean() == pytest.approx(value)


def test_few_shot_averages_its_tries_and_reports_their_spread():
    data, ctx = given_data(n_train=100, n_test=50)
    config = Config(k=(1, 3, 5), n_per_class=3, tries=4)
    result = run(FakeBackbone(), data, config, ctx)
    assert set(result.metrics) == {m.name for m in metrics(config)} and result.items is not None
    train, test, labels, truth = clustered(3, 100, 50, 6, 4, 1.0)
    draws = [_draw(labels, 3, t).numpy() for t in range(4)]
    each = [shares(train[d], test, labels[d], truth, 4, Config(k=(1, 3)))[3][0] for d in draws]
    assert result.metrics["top1@k3"] == pytest.approx(np.mean(each))
    assert result.metrics["top1_std@k3"] == pytest.approx(np.std(each))
    assert 100 * result.items["top1@k3"].mean() == pytest.approx(np.mean(each))
    assert result.notes == ["k = 5: not scored, as 3 images of each class are drawn"]
    again = run(FakeBackbone(), data, config, ctx)
    assert again.metrics == result.metrics


def test_few_shot_scores_no_more_neighbours_than_a_class_has():
    """Above n a class cannot have more votes, which the reference does not score; n itself it adds."""
    config = profiles["dinov2-fewshot"]
    assert [m.name for m in metrics(config)] == ["top1@k10", "top5@k10", "top1_std@k10", "top5_std@k10"]
    assert [m.name for m in metrics(config) if m.primary] == ["top1@k10"]
    assert {name: version_of(c) for name, c in profiles.items()} == {"dino2021": 1, "dinov2": 1, "dinov2-fewshot": 2}


def test_profiles_and_headline():
    assert list(profiles) == ["dino2021", "dinov2", "dinov2-fewshot"]
    assert (profiles["dino2021"].k, profiles["dino2021"].temperature) == ((10, 20, 100, 200), 0.07)
    assert [m.name for m in metrics(Config()) if m.primary] == ["top1@k20"]
    assert [m.name for m in metrics(Config(k=(50, 5))) if m.primary] == ["top1@k5"]


@pytest.mark.parametrize(
    "changes", [{"k": (0,)}, {"k": (5, 5)}, {"temperature": 0}, {"tries": 2}, {"tries": 0}, {"n_per_class": -1}]
)
def test_configs_that_mean_nothing_are_refused(changes):
    with pytest.raises(ValueError):
        Config(**changes)
