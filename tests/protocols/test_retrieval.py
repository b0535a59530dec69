"""Retrieval: variable-size extraction against one image at a time, the layouts, the restricted pickle, the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.contexts import on_processes
from helpers.host_reads import HostReads
from helpers.landmarks import SIZES, oxford, picture
from helpers.weights import vit
from PIL import Image
from torch.nn import functional as F

from dinobench import load_backbone
from dinobench.algorithms import ranking
from dinobench.context import LocalContext
from dinobench.data.embedded import tiles
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts import landmarks
from dinobench.data.layouts.landmarks import LabelledImages, Landmarks
from dinobench.errors import UserError
from dinobench.metrics.retrieval import average_precision
from dinobench.protocols import retrieval


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(vit(width=64, depth=2), path)
    return load_backbone(path)


def one_at_a_time(backbone, image, side, scales, patch=16):
    """The plain reading of the protocol: thumbnail, normalise, scale, cut, average, unit length."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    total = 0
    for s in scales:
        y = x if s == 1 else F.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False)
        total = total + backbone.features(y[..., : y.shape[2] // patch * patch, : y.shape[3] // patch * patch])
    return F.normalize(total, dim=1)[0].numpy()


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2**-0.5, 0.5)])
def test_batches_by_size_equal_one_at_a_time(tiny, tmp_path, scales):
    data = landmarks.load(oxford(tmp_path), "ox")
    config = retrieval.Config(image_size=80, scales=scales)
    rows, _ = retrieval._descriptors(tiny, data.database, data, config, LocalContext())
    expected = [one_at_a_time(tiny, data.database.load(i), 80, scales) for i in range(len(data.database))]
    np.testing.assert_allclose(rows, np.stack(expected), atol=2e-6)


def test_each_image_is_decoded_once(tiny, tmp_path, monkeypatch):
    data = landmarks.load(oxford(tmp_path), "ox")
    decoded = []
    load = type(data.database).load
    monkeypatch.setattr(type(data.database), "load", lambda self, i: decoded.append(self.ids[i]) or load(self, i))
    retrieval.run(tiny, data, retrieval.Config(scales=(1.0, 0.8)), LocalContext())
    assert sorted(decoded) == sorted([*data.database.ids, *data.queries.ids])


def test_boxes_cut_queries_only(tiny, tmp_path):
    data = landmarks.load(oxford(tmp_path), "ox")
    whole, _ = retrieval._descriptors(tiny, data.queries, data, retrieval.Config(), LocalContext())
    cut, _ = retrieval._descriptors(tiny, data.queries, data, retrieval.Config(), LocalContext(), data.boxes)
    expected = one_at_a_time(tiny, data.queries.load(0).crop((5, 3, 60, 44)), 224, (1.0,))
    np.testing.assert_allclose(cut[0], expected, atol=2e-6)
    assert np.abs(whole - cut).max() > 1e-3
    assert retrieval.profiles["revisitop"].crop_queries and not retrieval.profiles["dino2021"].crop_queries


def test_scores_follow_the_ground_truth(tmp_path):
    data = landmarks.load(oxford(tmp_path), "ox")
    similarity = np.array([[0.1, 0.9, 0.5, 0.95, 0.3, 0.2], [0.6, 0.5, 0.4, 0.3, 0.9, 0.1]])
    result = retrieval._score_landmarks(data, similarity, np.eye(6), retrieval.Config(), LocalContext())
    # query 0 ranks 3 1 2 4 5 0; 3 is junk; easy {0, 1}, hard {2}
    easy, hard = average_precision([0, 3], 2), average_precision([0], 1)
    medium = average_precision([0, 1, 4], 3)
    assert result.items["mAP_easy"].tolist() == [pytest.approx(easy), pytest.approx(np.nan, nan_ok=True)]
    second = average_precision([0, 5], 2)  # ranks 4 0 1 2 3 5, hard {4, 5}
    assert result.metrics["mAP_hard"] == pytest.approx(100 * (hard + second) / 2)
    assert result.metrics["mAP_medium"] == pytest.approx(100 * (medium + second) / 2)
    assert result.metrics["mP@1_medium"] == 100 and next(iter(result.metrics)) == "mAP_medium"
    declared = {m.name for m in retrieval.metrics(retrieval.Config())}
    assert set(result.metrics) <= declared


def test_trapezoids_or_steps_is_a_setting(tmp_path):
    data = landmarks.load(oxford(tmp_path), "ox")
    similarity = np.array([[0.1, 0.9, 0.5, 0.95, 0.3, 0.2], [0.6, 0.5, 0.4, 0.3, 0.9, 0.1]])
    steps = retrieval._score_landmarks(data, similarity, np.eye(6), retrieval.Config(trapezoid=False), LocalContext())
    assert steps.items["mAP_easy"][0] == pytest.approx(average_precision([0, 3], 2, trapezoid=False))


def test_sizes_and_scales_by_data_set():
    for key, expected in (("roxford5k", (224, (1.0,))), ("rparis6k", (512, (1.0, 2**-0.5, 0.5))), ("", (224, (1.0,)))):
        assert retrieval.size_and_scales(retrieval.Config(), key) == expected
    assert retrieval.size_and_scales(retrieval.Config(image_size=300), "rparis6k")[0] == 300


def test_several_ground_truths_in_one_folder(tiny, tmp_path):
    oxford(tmp_path, "roxford5k")
    oxford(tmp_path, "rparis6k")
    data = landmarks.load(tmp_path, "revisited")
    with pytest.raises(UserError, match=r"choose with --set dataset=roxford5k or --set dataset=rparis6k|rparis6k or"):
        retrieval.run(tiny, data, retrieval.Config(), LocalContext())
    assert retrieval.select_data(data, retrieval.Config(dataset="rparis6k")).name == "rparis6k"
    with pytest.raises(UserError, match="did you mean 'roxford5k'"):
        retrieval.select_data(data, retrieval.Config(dataset="oxford5k"))
    alone = landmarks.load(tmp_path / "roxford5k", "mine")
    assert alone.name == "mine" and retrieval.select_data(alone, retrieval.Config(dataset="roxford5k")) is alone
    with pytest.raises(UserError, match="holds roxford5k"):
        retrieval.select_data(alone, retrieval.Config(dataset="rparis6k"))


def labelled(root: Path, split: str = "") -> Path:
    for c in range(3):
        (root / split / f"class{c}").mkdir(parents=True)
        for i in range(4 if c else 1):
            picture(10 * c, (40 + i, 36)).save(root / split / f"class{c}" / f"{i}.png")
    return root


@pytest.mark.parametrize("split", ["", "val", "test", "train"])
def test_any_imagefolder(tiny, tmp_path, split):
    assert landmarks.recognises(labelled(tmp_path / "set", split))
    data = landmarks.load(tmp_path / "set", "set")
    result = retrieval.run(tiny, data, retrieval.Config(), LocalContext())
    # the pictures of a class are one picture at slightly different sizes, and class0 has one image only
    assert result.metrics == {"mAP": 100, "recall@1": 100, "recall@5": 100, "recall@10": 100}
    assert np.isnan(result.items["mAP"]).tolist() == [True] + [False] * 8
    assert data.layout == (f"imagefolder ({split})" if split else "imagefolder")


def test_images_smaller_than_a_patch(tiny, tmp_path):
    root = labelled(tmp_path / "set")
    picture(5, (20, 9)).save(root / "class1" / "slim.png")
    data = landmarks.load(root, "set")
    with pytest.raises(UserError, match=r"class1/slim\.png: 20 x 9 pixels are less than one patch .* --set enlarge=on"):
        retrieval.run(tiny, data, retrieval.Config(), LocalContext())
    result = retrieval.run(tiny, data, retrieval.Config(enlarge=True, image_size=64), LocalContext())
    assert len(result.items) == 10


def test_other_backbones_take_any_size(tmp_path):
    data = landmarks.load(oxford(tmp_path), "ox")
    for spec in ("random:resnet18", "pixels"):
        result = retrieval.run(load_backbone(spec), data, retrieval.Config(), LocalContext())
        assert 0 < result.metrics["mAP_medium"] <= 100


def test_unreadable_images_are_named(tiny, tmp_path):
    folder = oxford(tmp_path)
    (folder / "jpg" / "all_souls_000004.jpg").write_bytes(b"no image")
    with pytest.raises(
        UserError,
        match=r"1 of 6 images of database cannot be read: jpg/all_souls_000004\.jpg .not an im.*; repair",
    ):
        retrieval.run(tiny, landmarks.load(folder, "ox"), retrieval.Config(), LocalContext())


def test_nothing_to_find(tmp_path):
    (tmp_path / "a").mkdir()
    picture(0).save(tmp_path / "a" / "0.png")
    with pytest.raises(UserError, match="no class has two images"):
        landmarks.load(tmp_path, "x")


def test_unreadable_images_are_left_out_of_database_queries_and_truth(tiny, tmp_path):
    """Scores are those of a ground truth that never had them."""
    folder = oxford(tmp_path / "damaged")
    for name in ("all_souls_000001", "all_souls_000004"):  # a query, and the third image of the database
        (folder / "jpg" / f"{name}.jpg").write_bytes(b"no image")
    ctx = LocalContext(skip_broken=True)
    left = retrieval.run(tiny, landmarks.load(folder, "ox"), retrieval.Config(), ctx)
    assert len(ctx.broken) == 2
    names = [f"all_souls_{i:06d}" for i in range(len(SIZES))]
    truth = [{"bbx": [4.6, 3.0, 60.2, 44.0], "easy": [0, 1], "hard": [], "junk": [2]}]
    fewer = {"imlist": [n for n in names[2:] if n != names[4]], "qimlist": names[:1], "gnd": truth}
    data = landmarks.load(oxford(tmp_path / "without", **fewer), "ox")
    whole = retrieval.run(tiny, data, retrieval.Config(), LocalContext())
    assert left.metrics == pytest.approx(whole.metrics) and left.items.equals(whole.items)


def test_two_processes_cover_what_one_does(tiny, tmp_path):
    """Each process describes its shard; the shards joined are what one process finds."""
    data = landmarks.load(oxford(tmp_path), "ox")
    config = retrieval.Config()
    first, second = on_processes(2, lambda ctx: retrieval._descriptors(tiny, data.database, data, config, ctx)[0])
    whole = retrieval._descriptors(tiny, data.database, data, config, LocalContext())[0]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, whole, atol=2e-6)


def ranked(n: int = 40, classes: int = 3):
    """Labelled images and landmarks whose descriptors are given: (data, the score of it in a context)."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, 8)).astype(np.float32)
    rows[:5] = rows[0]  # ties
    ids = [f"{i}.png" for i in range(n)]
    split = FileSplit("images", "", ids, rng.integers(0, classes, n), "given")
    labelled = LabelledImages("set", "none", split, tuple("abc"), "given")
    kinds = rng.integers(0, 4, (n, n))  # easy, hard, junk, none of them
    truth = tuple({k: np.flatnonzero(row == i) for i, k in enumerate(("easy", "hard", "junk"))} for row in kinds)
    places = Landmarks("places", "none", "", split, split, np.full((n, 4), np.nan), truth, "given")
    config = retrieval.Config()
    return (
        lambda ctx: retrieval._score_labelled(labelled, rows, config, ctx),
        lambda ctx: retrieval._score_landmarks(places, rows, rows[::-1].copy(), config, ctx),
    )


@pytest.mark.parametrize("which", [0, 1])
def test_two_processes_rank_as_one_does(which, monkeypatch):
    """And with more processes than there is work for."""
    monkeypatch.setattr(ranking, "SIMILARITIES", 7 * 40)
    score = ranked()[which]
    alone = score(LocalContext())
    for result in [*on_processes(2, score), *on_processes(7, score)]:
        assert result.metrics == alone.metrics
        pd.testing.assert_frame_equal(result.items, alone.items, check_exact=True)


@pytest.mark.parametrize("which", [0, 1])
def test_a_device_is_read_once(which, monkeypatch):
    """When all queries are ranked, and it finds what the CPU finds."""
    monkeypatch.setattr(ranking, "SIMILARITIES", 7 * 40)
    score = ranked()[which]
    expected = score(LocalContext())
    monkeypatch.setattr(ranking, "RANKED_BY_HOST", ())
    with HostReads() as reads:
        result = score(LocalContext())
    assert len(reads) == 1 and "context.py" in reads.lines[0], reads
    pd.testing.assert_frame_equal(result.items, expected.items, rtol=1e-14)


def test_embedded_set_runs(tiny):
    data = tiles.places("tiles")
    assert data.fingerprint == tiles.places("other").fingerprint
    result = retrieval.run(tiny, data, retrieval.Config(image_size=96), LocalContext())
    assert result.metrics["mAP_easy"] > result.metrics["mAP_hard"] > 0
    cropped = retrieval.run(tiny, data, retrieval.Config(image_size=96, crop_queries=True), LocalContext())
    assert cropped.metrics["mAP_easy"] > result.metrics["mAP_easy"]
