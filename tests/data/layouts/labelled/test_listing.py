"""The same images in every layout give the same score; draws; labels that are missing, doubled or foreign."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.imagenet import WNIDS, devkit, kaggle, tars
from helpers.labelled import CLASSES, LAYOUTS, folders, items
from helpers.typed import assert_one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.cli import main
from dinobench.data import kinds_of, load_dataset
from dinobench.data.layouts import ANY_IMAGES
from dinobench.data.layouts.labelled.listing import Draw, drawn, numbered, parse_draw
from dinobench.errors import UserError
from dinobench.types import TrainingImages

pytestmark = pytest.mark.usefixtures("own_cache")
EVERY = {**LAYOUTS, "devkit": devkit, "kaggle": kaggle, "tars": tars}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def typed(data, *words, out="results"):
        line = ["dinobench", "run", "--protocol", "knn", "--ckpt", "pixels:3", "--data", data, "--device", "cpu",
                "--set", "resize=3", "--set", "crop=3", "--set", "k=3", "--out", out, "--json", *words]  # fmt: skip
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return typed


def record(run, *words, **options):
    code, out, err = run(*words, **options)
    assert code == 0, err
    (found,) = json.loads(out)
    return found


def rights(found, out="results"):
    return pd.read_parquet(Path(out) / "items" / f"{found['run_id']}.parquet")["top1@k3"].tolist()


@pytest.mark.slow
def test_every_layout_gives_the_score_of_class_folders(run, tmp_path):
    folders(tmp_path / "folders")
    wanted = record(run, "folders")
    value = wanted["metrics"]["top1@k3"]["value"]
    assert 50 < value < 100, "or nothing is told apart"
    for name, make in EVERY.items():
        found = record(run, str(make(tmp_path / name)))
        assert found["metrics"]["top1@k3"] == wanted["metrics"]["top1@k3"], name
        assert Counter(rights(found)) == Counter(rights(wanted)) and found["dataset"] == name
        assert not found["notes"], found["notes"]


@pytest.mark.parametrize("layout", ["parquet", "webdataset", "saved"])
def test_how_many_read_decides_nothing(run, tmp_path, layout):
    LAYOUTS[layout](tmp_path / "set")
    one, many = (
        record(run, "set", "--no-cache", "--workers", n, "--batch-size", n, out=f"with{n}") for n in ("1", "5")
    )
    assert one["run_id"] == many["run_id"] and one["metrics"] == many["metrics"]
    assert rights(one, "with1") == rights(many, "with5")


@pytest.mark.parametrize("layout", ["folders", "saved", "webdataset", "clip_benchmark", "devkit", "tars"])
def test_broken_images_are_named_and_left_out_on_request(run, tmp_path, layout):
    root = EVERY[layout](tmp_path / "set")
    broken = items()["val"][5].content
    (file,) = [f for f in root.rglob("*") if f.is_file() and broken in f.read_bytes()]
    file.write_bytes(file.read_bytes().replace(broken, broken[:40] + bytes(len(broken) - 40)))
    assert_one_line(*run("set"), "cannot be read: ")
    found = record(run, "set", "--skip-broken")
    assert found["broken_images"] == 1 and found["metrics"]["top1@k3"]["n"] == 11


@pytest.mark.parametrize("layout", EVERY)
def test_pretraining_gets_the_images_of_train(tmp_path, layout):
    root = EVERY[layout](tmp_path / "set")
    found = load_dataset(str(root), "images")
    assert isinstance(found, TrainingImages) and found.digests is not None and found.digests.any(axis=1).all()
    assert len(found.train) == 18 and Counter(found.train.labels.tolist()) == {0: 6, 1: 6, 2: 6}
    assert len(found.classes) == 3 and found.train.load(17).size == (3, 3)
    scored = load_dataset(str(root))
    assert list(found.train.ids) == list(scored.train.ids) and found.train.fingerprint == scored.train.fingerprint


@pytest.mark.parametrize("layout", EVERY)
def test_digests_are_remembered(tmp_path, layout, monkeypatch):
    monkeypatch.setattr("dinobench.data.fingerprint.settled", lambda found: True)
    root = EVERY[layout](tmp_path / "set")
    first = load_dataset(str(root))

    def read(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("dinobench.data.fingerprint._hash", read)
    monkeypatch.setattr("dinobench.data.fingerprint._hash_read", read)
    assert load_dataset(str(root)).fingerprint == first.fingerprint


def test_a_draw_is_recorded(run, tmp_path):
    folders(tmp_path / "set")
    (tmp_path / "set" / "train").rename(tmp_path / "insects")
    found = record(run, "insects@split=0.34,seed=3")
    assert found["dataset"] == "insects@split=0.34,seed=3" and found["metrics"]["top1@k3"]["n"] == 6
    assert found["dataset_layout"] == "class_folders (split=0.34,seed=3)"
    assert found["notes"] == [
        "test drawn here: 0.34 of each class, seed 3, by the SHA-256 of the images' names: 12 train, 6 test"
    ]
    other = record(run, "mine=insects@split=0.34")
    assert other["dataset"] == "mine@split=0.34,seed=0"
    assert other["dataset_fingerprint"] != found["dataset_fingerprint"]
    (tmp_path / "insects").rename(tmp_path / "elsewhere")
    again = record(run, "insects=elsewhere@split=0.34,seed=3", "--force")
    assert again["run_id"] == found["run_id"] and again["metrics"] == found["metrics"]


def test_a_draw_serves_several_protocols_and_measures_without_labels(run, tmp_path):
    folders(tmp_path / "set")
    (tmp_path / "set" / "train").rename(tmp_path / "insects")
    words = ("--protocol", "representation", "--set", "images=0", "--set", "alpha_range=0,3", "--set", "starts=1")
    code, out, err = run("insects@split=0.34", *words)
    assert code == 0, err
    found = {r["protocol"]: r["dataset"] for r in json.loads(out)}
    assert found == dict.fromkeys(("knn", "representation"), "insects@split=0.34,seed=0")
    code, _, err = run("insects@split=0.34", "--protocol", "davis")
    assert code == 0 and "davis is not run on insects@split=0.34, which is not videos" in err


def test_kinds_are_told_with_a_draw_and_of_torchvisions_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOBENCH_DATA", str(tmp_path))
    folders(tmp_path / "set")
    kinds = ["classification", ANY_IMAGES, "videos"]
    assert kinds_of("set/train@split=0.5", kinds) == kinds[:2]
    for spec, kind, words in (
        ("nowhere@split=0.5", "classification", "no such file"),
        ("set/train@split=0.5", "videos", "nothing is drawn from data sets of videos"),
        ("torchvision:Nothing", ANY_IMAGES, "Nothing"),
    ):
        with pytest.raises(UserError, match=words):
            kinds_of(spec, [kind])


def test_what_is_drawn_is_the_same_on_every_machine():
    """As coreutils' sha256sum orders them: a change here would give every such data set another test."""
    ids = [f"{c}/{i:02d}.jpg" for c in ("a", "b") for i in range(10)]
    train, test = drawn(ids, np.repeat([0, 1], 10), Draw(0.2))
    assert [ids[i] for i in test] == ["a/04.jpg", "a/08.jpg", "b/04.jpg", "b/06.jpg"] and len(train) == 16


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 99), st.randoms())
@settings(max_examples=50, deadline=None)
def test_a_draw_takes_its_share_of_each_class_in_any_order(counts, share, seed, rng):
    labels = np.repeat(np.arange(len(counts)), counts)
    ids = [f"{label}/é{i}.png" for i, label in enumerate(labels.tolist())]
    train, test = drawn(ids, labels, Draw(share, seed))
    assert sorted([*train, *test]) == list(range(len(ids)))
    for label, count in enumerate(counts):
        held = int((labels[test] == label).sum())
        assert held == min(count - 1, max(1, int(share * count + 0.5)))
    order = list(range(len(ids)))
    rng.shuffle(order)
    other = [unicodedata.normalize("NFD", ids[i]) for i in order]  # as another system lists and spells them
    _, again = drawn(other, labels[order], Draw(share, seed))
    assert {ids[order[i]] for i in again} == {ids[i] for i in test}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("flat", "draw one with @split=0.2 (a fifth of each class) after its name"),
        ("flat@split=2", "@split=2,seed=0: a share between 0 and 1"),
        ("flat@split=half", "a share between 0 and 1"),
        ("flat@split=0.2,seed=x", "and a whole seed"),
        ("set@split=0.2", "reads as imagefolder, with a split of its own; leave out @split=0.2"),
        ("parquet@split=0.2", "has train and val already; leave out @split=0.2"),
        ("digits@split=0.2", "digits: has a split of its own"),
        ("nowhere@split=0.2", "nowhere: no such file or folder"),
        ("lone@split=0.5", "one image a class leaves none to score on"),
        ("empty@split=0.5", "layout not recognised (an empty folder)"),
        ("hollow@split=0.5", "a class without images (it is empty)"),
        ("set/train", "class folders without a split"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(run, tmp_path, spec, words):
    folders(tmp_path / "set")
    LAYOUTS["parquet"](tmp_path / "parquet")
    folders(tmp_path / "other")
    (tmp_path / "other" / "train").rename(tmp_path / "flat")
    for c in "ab":
        (tmp_path / "lone" / c).mkdir(parents=True)
        (tmp_path / "lone" / c / "1.png").write_bytes(items()["train"][0].content)
    (tmp_path / "hollow" / "c").mkdir(parents=True)
    (tmp_path / "lone" / "a").rename(tmp_path / "hollow" / "a")
    (tmp_path / "lone" / "a").mkdir()
    (tmp_path / "lone" / "a" / "1.png").write_bytes(items()["train"][0].content)
    (tmp_path / "empty").mkdir()
    assert_one_line(*run(spec), words)


def test_a_folder_may_be_called_like_a_draw(tmp_path):
    folders(tmp_path / "x@split=0.2")
    assert load_dataset(str(tmp_path / "x@split=0.2")).name == "x@split=0.2"


def test_draws_are_for_images_with_classes(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="nothing is drawn from data sets of videos"):
        load_dataset(f"{tmp_path / 'x'}@split=0.2", "videos")
    folders(tmp_path / "set")
    found = load_dataset(f"{tmp_path / 'set' / 'train'}@split=0.5", "images")
    assert isinstance(found, TrainingImages) and len(found.train) == 9 and found.digests is not None
    assert len(found.digests) == 9 and found.notes[0].startswith("test drawn here: 0.5 of each class")


def test_lone_images_are_learnt_from_and_counted(tmp_path):
    root = folders(tmp_path / "set") / "train"
    for i in range(5):
        (root / "cow" / f"cow_{i}.png").unlink()
    found = load_dataset(f"{root}@split=0.5")
    assert "1 of 3 classes have one image and none in test" in found.notes[0]
    assert Counter(found.test.labels.tolist()) == {0: 3, 1: 3} and found.classes == CLASSES


def test_labels_are_numbers_or_names():
    labels, classes = numbered([10, 9, None, 10], None, "x")
    assert labels.tolist() == [1, 0, -1, 1] and classes == ("9", "10")
    labels, classes = numbered(["b", "a", None], None, "x")
    assert labels.tolist() == [1, 0, -1] and classes == ("a", "b")
    labels, classes = numbered([0, -1], ["a", "b"], "x")
    assert labels.tolist() == [0, -1] and classes == ("a", "b")
    for values, names, words in (
        ([0, "a"], None, "neither all whole numbers nor all texts"),
        ([0, 2], ["a", "b"], "label 2 has no name: 2 classes are named, from 0 on"),
        ([2**80], ["a", "b"], "has no name"),
        ([0], ["a", "a"], "two classes are called 'a'"),
        ([0.5], None, "labels are float and neither numbers nor names of classes"),
        ([True], ["a", "b"], "labels are bool and neither"),
    ):
        with pytest.raises(UserError, match=words):
            numbered(values, names, "x")


def test_a_share_is_a_number_between_0_and_1():
    assert parse_draw("0.25", "7") == Draw(0.25, 7) and str(Draw(0.25, 7)) == "split=0.25,seed=7"
    for share, seed in (("0", "0"), ("1", "0"), ("nan", "0"), ("0.5", "-1"), ("0.5", "1.5"), ("", "0")):
        with pytest.raises(UserError, match="a share between 0 and 1 and a whole seed"):
            parse_draw(share, seed)


def test_wnids_of_the_made_imagenet_are_in_order():
    assert list(WNIDS) == sorted(WNIDS)
