"""Mask propagation against the reference program's masks and a dense oracle; layouts, the scorer and bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.paths import GOLDEN
from helpers.weights import save, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

import dinobench
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data.embedded import shape_videos
from dinobench.data.layouts import davis as layout
from dinobench.data.video import label_png, palette, read_labels
from dinobench.errors import BrokenImage, UserError
from dinobench.metrics.segmentation import frame_scores, statistics
from dinobench.metrics.video import averages, object_statistics, object_table
from dinobench.protocols import davis
from dinobench.protocols.davis import Config, first_masks, label_maps, labels_of, network_input, run, score_folder
from dinobench.runner import with_intervals

CPU = torch.device("cpu")
SMALL = Config(short_side=96, multiple=32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(), tmp_path_factory.mktemp("weights") / "tiny.pth"))


# --- against the reference program ---


class FirstFrames:
    """The first n frames of a video with another first mask."""

    def __init__(self, video, n, mask):
        self.video, self.n, self.first = video, n, mask
        self.name, self.names, self.size, self.objects = video.name, video.names[:n], video.size, int(mask.max())

    def __len__(self):
        return self.n

    def frame(self, index):
        return self.video.frame(index)

    def mask(self, index):
        return self.video.mask(index) if index else self.first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dog", "car-shadow"])
def test_masks_meet_the_golden_ones(name, shared_data, tmp_path):
    weights = save(vit(width=192, depth=12, patch=16, image=224), tmp_path / "golden.pth")
    backbone = dinobench.load_backbone(weights)
    golden = [read_labels(GOLDEN / "davis_propagation" / name / f"{i:05}.png") for i in range(25)]
    (video,) = layout.load(shared_data / "DAVIS", "DAVIS").select([name])
    maps = list(label_maps(backbone, FirstFrames(video, 25, golden[0]), davis.profiles["dino2021"], LocalContext()))
    assert np.mean([(a == b).mean() for a, b in zip(maps, golden, strict=True)]) >= 0.999
    scores = np.array([frame_scores((maps[i] > 0).view(np.uint8), video.mask(i), 1) for i in range(1, 24)])
    wanted = json.loads((GOLDEN / "davis_propagation" / "scores.json").read_text())[name]
    wanted = wanted["foreground_vs_annotation_first_last_dropped"]
    for k, measure in enumerate("JF"):
        assert statistics(scores[:, k, 0]).mean == pytest.approx(wanted[measure][0], abs=0.001)


def test_another_methods_masks_meet_the_golden_scores(shared_data):
    wanted = json.loads((GOLDEN / "davis_osvos.json").read_text())
    data = layout.load(shared_data / "DAVIS", "DAVIS")
    table, summary = score_folder(shared_data / "osvos_predictions", data)
    for row in table.to_dict("records"):
        for measure in "JF":
            for statistic, value in wanted[row["video"]][measure].items():
                assert row[f"{measure}_{statistic}"] == pytest.approx(value, abs=1e-9)
    assert summary["J&F"] == pytest.approx(100 * (table["J_mean"].mean() + table["F_mean"].mean()) / 2)
    one, _ = score_folder(shared_data / "osvos_predictions", data, ["dog"], workers=1)
    assert one["id"].tolist() == ["dog/1"]


# --- the steps around it ---


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_labels_are_an_argmax_of_stretched_channels(seed, channels, with_empty):
    soft = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(seed)).softmax(0)
    if with_empty:
        soft[-1] = 0
    full = F.interpolate(soft[None], scale_factor=8, mode="bilinear", align_corners=False)[0]
    for channel in full:
        if channel.max() > 0:
            channel -= channel.min().clone()
            channel /= channel.max().clone()
    wanted = Image.fromarray(full.argmax(0).to(torch.uint8).numpy()).resize((61, 37), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(labels_of(soft, 8, (37, 61)), np.asarray(wanted))


def test_frames_are_resized_and_normalised_as_released():
    frame = np.random.default_rng(0).integers(0, 256, (480, 854, 3), dtype=np.uint8)
    x = network_input(frame, Config())
    assert x.shape == (3, 480, 832) and x.dtype == torch.float32
    resized = cv2.resize(np.ascontiguousarray(frame[..., ::-1]), (832, 480))[..., ::-1].astype(np.float64) / 255
    wanted = (resized - [0.485, 0.456, 0.406]) / [0.228, 0.224, 0.225]
    np.testing.assert_allclose(x.numpy().transpose(1, 2, 0), wanted, atol=1e-5)


def test_first_mask_has_a_channel_up_to_the_highest_label_on_the_grid():
    labels = np.zeros((48, 64), np.uint8)
    labels[:, 32:] = 2
    labels[0, 0] = 3  # falls between the patches
    masks = first_masks(labels, (3, 4))
    assert masks.shape == (3, 3, 4)
    assert masks.sum(0).eq(1).all() and masks[1].sum() == 0 and masks[2, :, 2:].all()


@pytest.mark.parametrize(
    ("setting", "words"),
    [("temperature=0", "above 0"), ("top_k=0", "at least 1"), ("window=-1", "not be negative"), ("std=1,1", "RGB")],
)
def test_impossible_settings_are_refused(setting, words):
    name, value = setting.split("=")
    with pytest.raises(UserError, match=words):
        resolve_config(davis, "dino2021", {name: value})


# --- the protocol as a whole ---


@pytest.fixture(scope="module")
def shapes_run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    data = shape_videos.videos()
    return data, folder, run(tiny, data, SMALL, LocalContext(folder=folder))


def test_result_is_the_mean_over_objects_with_intervals_over_videos(shapes_run):
    data, _, result = shapes_run
    assert result.items["id"].tolist() == [f"{v.name}/{k + 1}" for v in data.videos for k in range(v.objects)]
    values = with_intervals("davis", davis.metrics(SMALL), result, seed=0)  # the runner's own checks
    assert list(values) == ["J&F", "J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay"]
    assert result.cluster == "video"
    assert values["J&F"].value == pytest.approx((values["J_mean"].value + values["F_mean"].value) / 2)
    assert all(v.ci_low <= v.value <= v.ci_high for v in values.values())
    assert values["J&F"].value > 10  # colours and positions alone carry a mask some way


def test_saved_masks_score_as_the_run_did(shapes_run):
    data, folder, result = shapes_run
    assert len(list(folder.rglob("*.png"))) == sum(map(len, data.videos))
    table, summary = score_folder(folder, data)
    assert summary == pytest.approx(result.metrics)
    assert table.equals(result.items)


def test_some_videos_only(shapes_run, tiny):
    data, _, result = shapes_run
    context = LocalContext()
    some = run(tiny, data, dataclasses.replace(SMALL, videos=("shapes-1",)), context)
    assert some.items["video"].unique().tolist() == ["shapes-1"]
    same = result.items[result.items["video"] == "shapes-1"].reset_index(drop=True)
    assert some.items.equals(same)
    with pytest.raises(UserError, match=r"no video 'dog'; it has shapes-0"):
        run(tiny, data, dataclasses.replace(SMALL, videos=("dog",)), context)


@pytest.mark.parametrize("processes", [2, 5])
def test_several_processes_equal_one(shapes_run, tiny, processes):
    data, _, result = shapes_run
    for other in on_processes(processes, lambda ctx: run(tiny, data, SMALL, ctx)):
        assert other.items.equals(result.items)


class Damaged:
    """A video whose third frame cannot be read."""

    def __init__(self, video):
        self.video = video

    def __getattr__(self, name):
        return getattr(self.video, name)

    def __len__(self):
        return len(self.video)

    def frame(self, index):
        if index == 2:
            raise BrokenImage("00002.jpg: not a readable image")
        return self.video.frame(index)


def test_a_video_with_a_frame_that_cannot_be_read_is_left_out_as_a_whole(shapes_run, tiny):
    data, _, result = shapes_run
    damaged = dataclasses.replace(data, videos=(Damaged(data.videos[0]), *data.videos[1:]))
    with pytest.raises(UserError, match=r"00002\.jpg"):
        run(tiny, damaged, SMALL, LocalContext())
    ctx = LocalContext(skip_broken=True)
    left = run(tiny, damaged, SMALL, ctx)
    others = result.items[result.items["video"] != data.videos[0].name].reset_index(drop=True)
    assert left.items.equals(others) and ctx.broken == {f"{data.name}/{data.videos[0].name}"}


def test_means_do_not_depend_on_the_order_of_frames():
    rng = np.random.default_rng(0)
    j, f, order = rng.random((20, 2)), rng.random((20, 2)), rng.permutation(20)
    a, b = (averages(object_table([("v", 2)], object_statistics(x, y))) for x, y in ((j, f), (j[order], f[order])))
    for name in ("J&F", "J_mean", "J_recall", "F_mean", "F_recall"):
        assert a[name] == pytest.approx(b[name])


# --- layouts and bad input ---


def make_davis(root, year="2017", frames=4, objects=2, size=(24, 32)):
    """A small DAVIS folder with one video `cat`."""
    for part in ("JPEGImages", "Annotations"):
        (root / part / "480p" / "cat").mkdir(parents=True)
    (root / "ImageSets" / year).mkdir(parents=True)
    (root / "ImageSets" / year / "val.txt").write_text("cat\n")
    rng = np.random.default_rng(0)
    for i in range(frames):
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(root / "JPEGImages" / "480p" / "cat" / f"{i:05}.jpg")
        labels = np.zeros(size, np.uint8)
        for k in range(objects):
            labels[4 + i : 12 + i, 12 * k : 12 * k + 8] = k + 1 if year == "2017" else 255
        if year == "2017":
            labels[0, :3] = 255
        mask = root / "Annotations" / "480p" / "cat" / f"{i:05}.png"
        mask.write_bytes(label_png(labels)) if year == "2017" else Image.fromarray(labels).save(mask)
    return root


def test_2017_has_labels_and_void(tmp_path):
    data = layout.load(make_davis(tmp_path), "DAVIS")
    (video,) = data.videos
    assert (video.name, len(video), video.objects, video.binary, video.size) == ("cat", 4, 2, False, (24, 32))
    assert set(np.unique(video.mask(0))) == {0, 1, 2}  # 255 is background
    assert layout.recognises(tmp_path) and "2017" in data.layout


def test_2016_has_0_and_255(tmp_path):
    data = layout.load(make_davis(tmp_path, "2016", objects=1), "DAVIS")
    (video,) = data.videos
    assert (video.objects, video.binary) == (1, True)
    assert set(np.unique(video.mask(2))) == {0, 1}


def test_2016s_own_lists_of_file_pairs(tmp_path):
    make_davis(tmp_path, "2016", objects=1)
    shutil.rmtree(tmp_path / "ImageSets")
    (tmp_path / "ImageSets" / "480p").mkdir(parents=True)
    lines = [f"/JPEGImages/480p/cat/{i:05}.jpg /Annotations/480p/cat/{i:05}.png" for i in range(4)]
    (tmp_path / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    assert [v.name for v in layout.load(tmp_path, "DAVIS").videos] == ["cat"]


def test_fingerprint_follows_the_contents(tmp_path):
    a = layout.load(make_davis(tmp_path / "a"), "DAVIS")
    b = layout.load(make_davis(tmp_path / "b"), "other")
    assert a.fingerprint == b.fingerprint
    mask = tmp_path / "b" / "Annotations" / "480p" / "cat" / "00002.png"
    mask.write_bytes(label_png(np.ones((24, 32), np.uint8)))
    assert layout.load(tmp_path / "b", "DAVIS").fingerprint != a.fingerprint


def rgb(path):
    Image.new("RGB", (32, 24)).save(path)


def other_size(path):
    with Image.open(path) as image:
        image.resize((16, 12)).save(path)


FAULTS = {
    "no frame": ("JPEGImages/480p/cat/00001.jpg", Path.unlink, "00001.jpg: missing, though its mask is there"),
    "no mask": ("Annotations/480p/cat/00002.png", Path.unlink, "00002.png: missing, though the frame is there"),
    "no first mask": ("Annotations/480p/cat/00000.png", Path.unlink, "00000.png: the first mask is absent"),
    "rgb mask": ("Annotations/480p/cat/00001.png", rgb, "00001.png: a mask in mode RGB"),
    "small frame": ("JPEGImages/480p/cat/00001.jpg", other_size, "00001.jpg: 16 x 12 pixels, but .* has 32 x 24"),
    "small mask": ("Annotations/480p/cat/00003.png", other_size, "00003.png: 16 x 12 pixels"),
    "empty file": ("JPEGImages/480p/cat/00003.jpg", lambda p: p.write_bytes(b""), "00003.jpg: not a readable image"),
    "empty mask": (
        "Annotations/480p/cat/00000.png",
        lambda p: p.write_bytes(label_png(np.zeros((24, 32), np.uint8))),
        "00000.png: the first mask is empty",
    ),
    "no video": ("JPEGImages/480p/cat", shutil.rmtree, "cat: no such folder"),
    "empty list": ("ImageSets/2017/val.txt", lambda p: p.write_text("\n"), "val.txt: empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_when_loading(fault, tmp_path):
    file, spoil, words = FAULTS[fault]
    spoil(make_davis(tmp_path) / file)
    with pytest.raises(UserError, match=words) as error:
        layout.load(tmp_path, "DAVIS")
    assert "\n" not in str(error.value)


def test_a_hole_in_the_numbering_is_named(tmp_path):
    make_davis(tmp_path, frames=6)
    (tmp_path / "JPEGImages/480p/cat/00003.jpg").unlink()
    (tmp_path / "Annotations/480p/cat/00003.png").unlink()
    with pytest.raises(UserError, match="frame 00003 is missing"):
        layout.load(tmp_path, "DAVIS")


def test_labels_above_the_object_count_are_named(tmp_path):
    make_davis(tmp_path)
    (video,) = layout.load(tmp_path, "DAVIS").videos
    mask = tmp_path / "Annotations" / "480p" / "cat" / "00001.png"
    mask.write_bytes(label_png(np.full((24, 32), 3, np.uint8)))
    with pytest.raises(UserError, match=r"00001.png: label 3, but video cat has 2 object\(s\)"):
        video.mask(1)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "00001.png: no such mask"),
        (rgb, "00001.png: a mask in mode RGB"),
        (other_size, "00001.png: 16 x 12 pixels"),
        (lambda p: p.write_bytes(b"no image"), "00001.png: not a readable mask"),
        (lambda p: p.write_bytes(label_png(np.full((24, 32), 9, np.uint8))), "00001.png: label 9"),
    ],
)
def test_faults_in_predictions_are_named(spoil, words, tmp_path):
    data = layout.load(make_davis(tmp_path / "data"), "DAVIS")
    shutil.copytree(tmp_path / "data/Annotations/480p", tmp_path / "predictions")
    assert score_folder(tmp_path / "predictions", data)[1]["J&F"] == 100
    spoil(tmp_path / "predictions" / "cat" / "00001.png")
    with pytest.raises(UserError, match=words):
        score_folder(tmp_path / "predictions", data)
    with pytest.raises(UserError, match="no such folder"):
        score_folder(tmp_path / "predictions" / "cat", data)


def test_an_object_missing_from_a_prediction_is_empty(tmp_path):
    data = layout.load(make_davis(tmp_path / "data"), "DAVIS")
    for i in range(4):
        path = tmp_path / "predictions" / "cat" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(label_png((data.videos[0].mask(i) == 1).view(np.uint8)))
    table, summary = score_folder(tmp_path / "predictions", data)
    assert table["J&F"].tolist() == [1, 0] and summary["J&F"] == 50


def test_masks_on_disk_are_indexed_with_the_palette(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    (tmp_path / "m.png").write_bytes(label_png(labels))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P" and image.getpalette() == palette()
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png"), labels)
