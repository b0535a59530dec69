"""The segmentation protocol on small pictures: what it learns, its readings, interruptions, the command as typed."""

from __future__ import annotations

import dataclasses
import os
import sys

import numpy as np
import pytest
import torch
from helpers import forked
from helpers.contexts import WatchedContext
from helpers.segmentation import ColourBackbone, Pictures
from helpers.typed import assert_one_line
from helpers.weights import save, vit
from PIL import Image

import dinobench
from dinobench.cli import main
from dinobench.config import replace_settings, resolve_config
from dinobench.context import LocalContext
from dinobench.data.label_maps import LabelMapSet
from dinobench.errors import UserError
from dinobench.metrics.semantic import areas, areas_of, confusion
from dinobench.protocols import segmentation
from dinobench.protocols.segmentation import Config, metrics, profiles, run, zero_reduced
from dinobench.results.records import read_file
from dinobench.runner import with_intervals
from dinobench.signals import Interrupted

SMALL = {"side": 32, "crop": 32, "stride": 16, "iterations": 40, "batch": 4, "lr": 0.05, "warmup": 0.1}
CACHED = replace_settings(profiles["cached"], **SMALL, dropout=0.0)
AUGMENTED = replace_settings(profiles["dinov3"], **SMALL | {"iterations": 8}, validate_every=4, distort=False)
SIZES = [(32, 48), (48, 32), (40, 40), (32, 64), (36, 32), (48, 48)]


@pytest.fixture(scope="module")
def data():
    train, test = Pictures(SIZES), Pictures(SIZES[::-1], name="val")
    return LabelMapSet("pictures", "drawn", ("ground", "red", "blue"), train, test, "f", 0)


@pytest.mark.parametrize("config", [CACHED, AUGMENTED], ids=["cached", "augmented"])
def test_colours_are_learnt(data, config):
    ctx = LocalContext()
    result = run(ColourBackbone(), data, config, ctx)
    assert list(result.items["id"]) == data.test.ids
    checked = with_intervals("segmentation", metrics(config), result, 0)
    assert checked["mIoU"].ci_low <= checked["mIoU"].value <= checked["mIoU"].ci_high
    if config is CACHED:
        assert result.metrics["mIoU"] > 70 and "mIoU_best" not in result.metrics
    else:
        assert result.metrics["mIoU_best"] >= result.metrics["mIoU"]
        assert "best of 2 validations on the images scored: after" in result.notes[-1]


def test_every_profile_reads_and_trains_as_it_says(data, tmp_path):
    small = {"side": 32, "crop": 32, "stride": 16, "iterations": 2, "batch": 2}
    backbone = dinobench.load_backbone(save(vit(depth=4), tmp_path / "vit.pth"))
    for profile, config in profiles.items():
        result = run(backbone, data, replace_settings(config, **small), LocalContext())
        assert set(result.metrics) == {"mIoU", "mAcc", "aAcc", "mIoU_zero_reduced"}, profile
    assert profiles["dinov2-ms"].train.blocks == 4 and profiles["dinov2"].view.padding == "centred"
    assert profiles["dinov3"] == Config()
    assert resolve_config(segmentation, None, {}).profile == "dinov2"


def test_one_map_is_read_where_there_are_no_blocks(data):
    result = run(ColourBackbone(), data, replace_settings(CACHED, blocks=4, iterations=2), LocalContext())
    assert result.notes[0] == "a colours has one map to read: blocks=1"
    convnet = dinobench.load_backbone("random:resnet18")
    assert run(convnet, data, replace_settings(CACHED, iterations=2), LocalContext()).metrics["mIoU"] >= 0


def test_labels_less_one_are_read_as_the_release_does():
    rng = np.random.default_rng(0)
    predicted, truth = rng.integers(0, 5, (2, 30, 40))
    truth[rng.random(truth.shape) < 0.2] = 255
    released = np.where((truth == 0) | (truth == 255), 255, truth - 1)
    np.testing.assert_array_equal(areas_of(zero_reduced(confusion(predicted, truth, 5))), areas(predicted, released, 5))


@pytest.mark.parametrize("config", [CACHED, AUGMENTED], ids=["cached", "augmented"])
def test_an_interrupted_run_gives_the_same_numbers(data, config, tmp_path, monkeypatch):
    whole = run(ColourBackbone(), data, config, LocalContext())
    seen = []

    def ask(item):
        seen.append(item)
        if getattr(item, "says", "") and sum(hasattr(one, "says") for one in seen) == 5:
            os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted):
        run(ColourBackbone(), data, config, WatchedContext(ask, scratch=tmp_path))
    rest = []
    again = run(ColourBackbone(), data, config, WatchedContext(rest.append, scratch=tmp_path))
    assert sum(hasattr(item, "says") for item in rest) == config.train.iterations - 6
    assert again.metrics == whole.metrics and again.items.equals(whole.items)


def test_files_are_kept_for_those_who_ask(data, tmp_path):
    run(ColourBackbone(), data, replace_settings(CACHED, iterations=2), LocalContext(folder=tmp_path))
    maps = {name: np.asarray(Image.open(tmp_path / f"{name}.png")) for name in data.test.ids}
    assert all(maps[name].shape == data.test.sizes[i] for i, name in enumerate(data.test.ids))
    head = torch.load(tmp_path / "head.pth", weights_only=True)
    assert head["classes"] == ["ground", "red", "blue"] and head["head"]["conv.weight"].shape == (3, 3, 1, 1)


def test_broken_and_unlabelled_images_are_told(data):
    torn = dataclasses.replace(data, test=Pictures(SIZES, broken=(1, 3), name="val"))
    config = replace_settings(CACHED, iterations=2)
    with pytest.raises(UserError, match="2 of 6 images of val cannot be read: i1"):
        run(ColourBackbone(), torn, config, LocalContext())
    ctx = LocalContext(skip_broken=True)
    assert len(run(ColourBackbone(), torn, config, ctx).items) == 4 and ctx.broken == {"val/i1", "val/i3"}

    class Unlabelled(Pictures):
        def load(self, index):
            return Image.new("RGB", self.sizes[index][::-1])

        def labels(self, index):
            return np.full(self.sizes[index], 255, np.uint8)

    bare = dataclasses.replace(data, test=Unlabelled(SIZES, name="val"))
    with pytest.raises(UserError, match="no pixel of val has a label"):
        run(ColourBackbone(), bare, config, LocalContext())
    with pytest.raises(UserError, match="no image of a training step can be read"):
        lost = dataclasses.replace(data, train=Pictures(SIZES, broken=range(6)))
        run(ColourBackbone(), lost, AUGMENTED, LocalContext(skip_broken=True))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("iterations=0", "iterations"), ("stride=600", "stride"), ("ratios=0", "ratios"), ("scale=2,1", "scale"),
        ("dropout=1", "dropout"), ("most=0", "most"), ("lr=0", "lr"), ("schedule=x", "schedule"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(monkeypatch, capsys, setting, words):
    line = ["run", "--protocol", "segmentation", "--data", "shapes", "--ckpt", "pixels:8", "--set", setting]
    monkeypatch.setattr(sys, "argv", ["dinobench", *line])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert_one_line(int(stopped.value.code), out, err, words)


def test_whole_windows_are_needed_for_features_that_are_kept():
    with pytest.raises(ValueError, match="a side of crop or more"):
        replace_settings(CACHED, side=16)


@pytest.mark.slow
def test_two_processes_equal_one(own_cache, tmp_path):
    model = save(vit(), tmp_path / "vit.pth")
    line = ["run", "--protocol", "segmentation", "--ckpt", model, "--data", "shapes", "--device", "cpu",
            "--set=side=32", "--set=crop=32", "--set=stride=16", "--set=iterations=4", "--set=batch=6"]  # fmt: skip
    records = []
    for ask in (forked.typed, forked.typed_by_two):
        out = tmp_path / ask.__name__
        for profile in ("cached", "dinov3"):
            code, _, err = ask(tmp_path, *line, "--profile", profile, "--out", out)
            assert code == 0, err
        found = [read_file(path) for path in (out / "runs").glob("*.json")]
        records.append({record.profile: record for record in found})
    one, two = records
    assert len(one) == 2 and all(record.processes == 2 for record in two.values())
    for profile, record in one.items():
        for name, value in record.metrics.items():
            # the sum of a batch norm is rounded otherwise in a batch that was gathered
            assert value.value == pytest.approx(two[profile].metrics[name].value, abs=0.05), (profile, name)
