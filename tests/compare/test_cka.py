"""Blocks of two models against features taken by hand, models named by their records, and the files written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers.fakes import FakeSplit
from helpers.samples import INFO, record
from helpers.weights import save, shifted, vit

from dinobench.compare import cka
from dinobench.compare.cka import block_similarity, find
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.transforms import ImageTransform
from dinobench.errors import UserError
from dinobench.metrics.representation import cka as cka_of
from dinobench.models.loading import load_backbone
from dinobench.results.records import write


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return str(save(vit(), folder / "two.pth")), str(save(shifted(vit(depth=3)), folder / "three.pth"))


@pytest.fixture(scope="module")
def found(models):
    return block_similarity(models, "digits", LocalContext(), images=60, size=32)


def test_every_pair_of_blocks_is_compared_on_the_same_images(models, found):
    assert found.linear.shape == found.debiased.shape == (2, 3) and found.images == 60
    assert (found.a.model, found.b.model) == ("two", "three") and found.b.blocks == ("block 1", "block 2", "block 3")
    again = block_similarity((models[0], models[0]), "digits", LocalContext(), images=60, size=32)
    assert np.diag(again.linear) == pytest.approx(1) and np.diag(again.debiased) == pytest.approx(1)
    assert again.linear == pytest.approx(again.linear.T)


@pytest.mark.parametrize("tokens", ["cls", "patches"])
def test_values_are_those_of_the_blocks(models, tokens, monkeypatch):
    split = load_dataset("digits").test
    transform = ImageTransform(37, 32)
    pixels = torch.from_numpy(np.stack([transform(split.load(i)) for i in range(20)]))
    blocks = []
    for model, index in zip(models, (0, 2), strict=True):
        ((cls, patches),) = load_backbone(model).blocks(transform.normalise(pixels), [index])
        blocks.append((cls if tokens == "cls" else patches.mean(1)).numpy())
    monkeypatch.setattr(cka, "draw", lambda n, count, seed: np.arange(count))
    found = block_similarity(models, "digits", LocalContext(), images=20, size=32, tokens=tokens)
    assert found.linear[0, 2] == pytest.approx(cka_of(*blocks), rel=1e-4)
    assert found.debiased[0, 2] == pytest.approx(cka_of(*blocks, "debiased"), rel=1e-4, abs=1e-6)


def test_a_model_without_blocks_is_one_row(models):
    found = block_similarity(("pixels:4", models[0]), "digits", LocalContext(), images=30, size=32)
    assert found.a.blocks == ("feature",) and found.linear.shape == (1, 2)


def test_images_that_cannot_be_read_are_named(models, monkeypatch):
    data = dataclasses.replace(load_dataset("digits"), test=FakeSplit(12, broken=(3,)))
    monkeypatch.setattr(cka, "load_dataset", lambda *args, **kwargs: data)
    with pytest.raises(UserError, match=r"1 of 12 images of test cannot be read: images/3\.png"):
        block_similarity(models, "made", LocalContext(), size=32)


def test_features_that_do_not_differ_are_like_nothing(models, monkeypatch):
    split = FakeSplit(6)
    split.colors[:] = 7
    data = dataclasses.replace(load_dataset("digits"), test=split)
    monkeypatch.setattr(cka, "load_dataset", lambda *args, **kwargs: data)
    with pytest.raises(UserError, match="all features of a set are the same"):
        block_similarity(("pixels:2", "pixels:2"), "made", LocalContext(), size=32)


def test_models_are_found_by_the_name_in_their_records(models, tmp_path):
    assert find(tmp_path, models[0]) == models[0] and find(tmp_path, "pixels") == "pixels"
    with pytest.raises(UserError, match="two-blocks"):
        find(tmp_path, "two-blocks")
    checkpoint = dataclasses.replace(INFO, name="two-blocks", path=models[0])
    write(tmp_path, record(checkpoint=checkpoint), None)
    assert find(tmp_path, "two-blocks") == f"two-blocks={models[0]}"


def test_files_hold_every_pair(found):
    table = cka.to_csv(found).splitlines()
    assert table[0] == "block_a,block_b,linear,debiased" and len(table) == 7
    what = json.loads(cka.to_json(found))
    assert what["model_a"] == "two" and what["pairs"][5]["linear"] == pytest.approx(found.linear[1, 2])
    lines = cka.to_markdown(found).splitlines()
    assert lines[0].startswith("| linear CKA, two") and lines[3].count("|") == 5
