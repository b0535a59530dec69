"""Depth heads trained small on made folders: what the profiles are, exact resumption, processes and bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from helpers import forked
from helpers.contexts import WatchedContext
from helpers.depth import make_kitti, make_nyu
from helpers.typed import assert_one_line
from helpers.weights import save, vit

import dinobench
from dinobench.cli import main
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.depth_maps import read_depth
from dinobench.dense.depth.probe import DepthProbe
from dinobench.errors import UserError
from dinobench.metrics.depth import depth_scores
from dinobench.protocols import depth
from dinobench.protocols.depth import blocks_of, metrics, probe_config, profiles, run
from dinobench.runner import with_intervals
from dinobench.signals import Interrupted

SMALL = dataclasses.replace(
    profiles["dinov3"], iterations=12, batch=4, train_crop=(64, 80), without_variance=3, lr=1e-2
)
TWICE = dataclasses.replace(profiles["dinov2-lin4"], iterations=12, batch=4, train_crop=(64, 80), test_every=5)
CACHED = dataclasses.replace(profiles["cached"], iterations=12, batch=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(depth=4), tmp_path_factory.mktemp("weights") / "tiny.pth"))


@pytest.fixture(scope="module")
def nyu(tmp_path_factory):
    return load_dataset(str(make_nyu(tmp_path_factory.mktemp("data"))), "depth")


def test_profiles_are_the_releases(tiny, nyu):
    lin1, lin4, v3 = (
        probe_config(nyu, profiles[name], blocks_of(tiny, profiles[name])[0])
        for name in ("dinov2-lin1", "dinov2-lin4", "dinov3")
    )
    assert (lin1.blocks, lin4.blocks, v3.blocks) == ((3,), (0, 1, 2, 3), 1)
    assert lin1.schedule.warmup == v3.schedule.warmup == 12_800
    assert (lin1.upsample, lin1.batchnorm, v3.upsample, v3.batchnorm) == (4, False, 1, True)
    assert lin1.bins == v3.bins and (v3.bins.low, v3.bins.high, v3.bins.count) == (0.001, 10.0, 256)
    assert (lin1.crop, lin1.view.border, lin1.view.crop, lin1.view.brightness) == ("nyu", True, (416, 544), 0.25)
    assert (lin1.clamp, v3.clamp, lin1.test_every, v3.test_every) == ("head", "labels", 800, 0)
    assert lin1.loss.gradient_axes == "batch" and v3.loss.gradient == 0


@pytest.mark.parametrize("config", [SMALL, TWICE, CACHED], ids=["dinov3", "dinov2", "cached"])
def test_scores_every_image_and_learns(tiny, nyu, config):
    result = run(tiny, nyu, config, LocalContext())
    checked = with_intervals("depth", metrics(config), result, seed=0)
    assert checked["rmse"].n == 3 and list(result.items["id"]) == list(nyu.test.ids)
    assert result.metrics["delta1"] == pytest.approx(100 * result.items["delta1"].mean())
    untrained = run(tiny, nyu, dataclasses.replace(config, lr=1e-12, test_every=0), LocalContext())
    assert result.metrics["rmse"] < untrained.metrics["rmse"]
    if config.test_every:
        assert result.metrics["abs_rel_best_on_test"] <= result.metrics["abs_rel"]
        assert "best on the test images, by AbsRel: step" in result.notes[0]


@pytest.mark.parametrize("config", [SMALL, TWICE, CACHED], ids=["dinov3", "dinov2", "cached"])
def test_an_interruption_changes_nothing(tiny, nyu, tmp_path, monkeypatch, config):
    whole = run(tiny, nyu, config, LocalContext())
    seen = []

    def stop(item):
        if getattr(item, "says", "").startswith("step 7/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(tiny, nyu, config, WatchedContext(scratch=tmp_path, each=stop))
    again = run(tiny, nyu, config, WatchedContext(scratch=tmp_path, each=seen.append))
    steps = [item.says for item in seen if getattr(item, "says", "").startswith("step")]
    assert steps[0].startswith("step 9/12") and len(steps) == 4
    assert again.items.equals(whole.items) and again.metrics == whole.metrics and again.notes == whole.notes
    fresh = []
    other = dataclasses.replace(config, weight_decay=0.5)
    run(tiny, nyu, other, WatchedContext(scratch=tmp_path, each=fresh.append))
    assert len([item for item in fresh if hasattr(item, "says")]) == 12, "another configuration finds no state"


def test_micro_batches_and_threads_have_no_say(tiny, nyu):
    whole = run(tiny, nyu, SMALL, LocalContext())
    for options in ({"batch_size": 3}, {"workers": 1, "batch_size": 1}):
        other = run(tiny, nyu, SMALL, LocalContext(**options))
        assert np.allclose(other.items["rmse"], whole.items["rmse"], atol=1e-4)


def test_saved_depth_is_what_was_scored(tiny, nyu, tmp_path):
    result = run(tiny, nyu, SMALL, LocalContext(folder=tmp_path))
    for row, image in enumerate(nyu.test.ids):
        pred = read_depth(tmp_path / image.replace(".jpg", ".png"), 1000)
        scores = depth_scores(nyu.test.depth(row), pred, 0.001, 10, "nyu")
        assert scores["rmse"] == pytest.approx(result.items["rmse"][row], abs=1e-3)


def test_kitti_is_scored_by_drive(tiny, tmp_path):
    data = load_dataset(str(make_kitti(tmp_path)), "depth")
    config = dataclasses.replace(CACHED, iterations=3, scale=0.25)
    result = run(tiny, data, config, LocalContext())
    assert result.cluster == "cluster" and list(result.items["cluster"]) == list(data.test.clusters)


def test_images_without_a_pixel_that_counts_are_noted(tiny, nyu):
    nothing = dataclasses.replace(CACHED, low=0.5, high=0.6)
    with pytest.raises(UserError, match="no test image has a pixel whose depth lies within"):
        run(tiny, nyu, nothing, LocalContext())


def test_broken_images_are_named_or_left_out(tiny, tmp_path):
    folder = make_nyu(tmp_path)
    (folder / "kitchen_0001" / "rgb_00003.jpg").write_bytes(b"\xff\xd8\xff none")
    (folder / "office" / "sync_depth_00001.png").write_bytes(b"none")
    data = load_dataset(str(folder), "depth")
    for config in (SMALL, CACHED):
        with pytest.raises(UserError, match=r"kitchen_0001/rgb_00003.jpg.*--skip-broken"):
            run(tiny, data, config, LocalContext())
        ctx = LocalContext(skip_broken=True)
        result = run(tiny, data, config, ctx)
        assert len(result.items) == 2
        assert ctx.broken == {"train/kitchen_0001/rgb_00003.jpg", "test/office/rgb_00001.jpg"}


def test_features_that_no_memory_holds_are_refused(tiny, nyu):
    # of 43 x 56 pixels, padded to 3 x 4 patches of 64 floats
    with pytest.raises(UserError, match=r"features of 5 images take 0.0 GB.*--set train_images=2, or --ram-cache"):
        run(tiny, nyu, CACHED, LocalContext(ram_bytes=2 * 3 * 4 * 64 * 4))
    assert len(run(tiny, nyu, CACHED, LocalContext(ram_bytes=5 * 3 * 4 * 64 * 4)).items) == 3


def test_a_training_that_diverges_says_so(tiny, nyu):
    with pytest.raises(UserError, match=r"the loss is not finite at step \d+.*--set lr="):
        run(tiny, nyu, dataclasses.replace(CACHED, lr=1e30, clip=0.0, batchnorm=False), LocalContext())


def test_a_convnet_gives_its_last_map(nyu):
    backbone = dinobench.load_backbone("random:resnet18")
    config = dataclasses.replace(TWICE, iterations=2, test_every=0)
    result = run(backbone, nyu, config, LocalContext())
    assert result.notes[0] == "a resnet18 has no blocks with a CLS token: read=map"


@pytest.mark.parametrize(
    "setting", ["iterations=0", "low=20", "scale=0.5", "warmup=1", "sig=0", "train_crop=-1,5", "flip=2"]
)
def test_settings_that_mean_nothing_are_refused(setting):
    name, _, value = setting.partition("=")
    with pytest.raises(UserError):
        resolve_config(depth, "dinov3", {name: value, "high": "10"} if name == "low" else {name: value})


RUN = ("run", "--protocol", "depth", "--ckpt", "random:vit_tiny_patch16_224", "--device", "cpu")
SHORT = ("--set", "iterations=2", "--set", "batch=2")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command as typed, in an empty folder -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dinobench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return call


def test_a_run_prints_and_records_its_scores(command, tmp_path):
    nyu, kept = make_nyu(tmp_path), tmp_path / "kept"
    code, out, err = command(
        *RUN, *SHORT, "--profile", "dinov3", "--data", nyu, "--set", "train_crop=64,96", "--json", "--save", kept
    )
    assert code == 0, err
    assert '"rmse"' in out and "1 lines of nyu_test.txt have no depth (None) and are left out" in err
    (record,) = tmp_path.rglob("runs/*.json")
    written = json.loads(record.read_text())
    assert written["metrics"]["rmse"]["n"] == 3 and "rmse" in written["lower_is_better"]
    assert len(list(kept.rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "113 x 85 pixels to train on, fewer than the crop of 544 x 416; use --set train_crop=85,113"),
        (("--set", "scale=0.5"), "1 unless features=extracted"),
        (("--set", "crop=center"), "center"),
    ],
)
def test_bad_settings_are_one_line(command, tmp_path, options, words):
    nyu = make_nyu(tmp_path)
    assert_one_line(*command(*RUN, *SHORT, "--profile", "dinov3", "--data", nyu, *options), words)


def test_a_list_at_fault_is_one_line(command, tmp_path):
    nyu = make_nyu(tmp_path)
    (nyu / "nyu_train.txt").write_text("alone\n")
    assert_one_line(*command(*RUN, "--data", nyu), "nyu_train.txt: line 1 names 'alone' alone")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    folder, model, values = make_nyu(tmp_path), save(vit(), tmp_path / "vit.pth"), []
    for ask in (forked.typed, forked.typed_by_two):
        out = tmp_path / ask.__name__
        code, _, err = ask(
            tmp_path, "run", "--protocol", "depth", "--data", folder, "--profile", "dinov3", "--ckpt", model, "--out",
            out, "--set", "iterations=4", "--set", "batch=4", "--set", "train_crop=64,96", "--device", "cpu",
            DINOBENCH_CACHE=str(out / "cache"),
        )  # fmt: skip
        assert code == 0, err
        (record,) = (out / "runs").glob("*.json")
        values.append({n: m["value"] for n, m in json.loads(record.read_text())["metrics"].items()})
    assert json.loads(record.read_text())["processes"] == 2
    assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_a_head_starts_and_ends_on_the_seed_alone(tiny, nyu):
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    config = probe_config(nyu, CACHED, blocks_of(tiny, CACHED)[0])
    probe = DepthProbe(tiny, nyu, config, LocalContext())
    probe.run()
    assert torch.rand(1) == before
