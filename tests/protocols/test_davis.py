"""Mask propagation against the reference program's masks and a dense oracle; layouts, the scorer and bad input."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers.contexts import on_processes
from helpers.golden import golden_values
from helpers.paths import GOLDEN
from helpers.weights import quiet, save, vit

import dinobench
from dinobench.config import flat, resolve_config
from dinobench.context import LocalContext
from dinobench.data.embedded import shape_videos
from dinobench.data.layouts import davis as layout
from dinobench.data.video import read_labels
from dinobench.errors import BrokenImage, UserError
from dinobench.metrics.segmentation import frame_scores, statistics
from dinobench.metrics.video import averages, object_statistics, object_table
from dinobench.protocols import davis
from dinobench.protocols.davis import Config, label_maps, profiles, run, score_folder
from dinobench.runner import with_intervals

SMALL = Config(short_side=96, multiple=32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(), tmp_path_factory.mktemp("weights") / "tiny.pth"))


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dog", "car-shadow"])
def test_dinov3_masks_meet_the_golden_ones(name, shared_data, tmp_path):
    tensors = quiet(vit(width=192, depth=12, patch=16, image=224))
    backbone = dinobench.load_backbone(save(tensors, tmp_path / "golden.pth"))
    folder = GOLDEN / "next" / "tracking_dinov3"
    golden = [read_labels(folder / name / f"{i:05}.png") for i in range(10)]
    (video,) = layout.load(shared_data / "DAVIS", "DAVIS").select([name])
    config = dataclasses.replace(profiles["dinov3"], short_side=240)
    maps = list(label_maps(backbone, FirstFrames(video, 10, golden[0]), config, LocalContext()))
    assert np.mean([(a == b).mean() for a, b in zip(maps, golden, strict=True)]) >= 0.999
    wanted = golden_values("tracking_dinov3")["videos"][name]
    pixels = [np.count_nonzero(labels) for labels in maps]
    assert pixels == pytest.approx(wanted["foreground_pixels_per_frame"], abs=0.001 * golden[0].size)
    assert [240, 16 * wanted["grid"][1]] == [*config.view().size(*video.size, 16)]


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


def test_settings_of_the_later_profile_leave_the_first_ones_runs_their_names():
    """The digest as it was before there was a second profile."""
    assert resolve_config(davis, "dino2021", {}).hash(davis) == (
        "1d93c4967c0c291dfccc19ccccac7e4ed108bd97bab119cb16039f72fbadf43d"
    )
    assert len(flat(profiles["dino2021"])) == 9 and len(flat(profiles["dinov3"])) == 14


@pytest.mark.parametrize(
    ("setting", "words"),
    [("temperature=0", "above 0"), ("top_k=0", "at least 1"), ("window=-1", "not be negative"), ("std=1,1", "RGB")],
)
def test_impossible_settings_are_refused(setting, words):
    name, value = setting.split("=")
    with pytest.raises(UserError, match=words):
        resolve_config(davis, "dino2021", {name: value})


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
