"""Points found again: the golden pairs of DIFT's loop, the other two programs' as plain loops, layouts, faults."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.correspondence import make_spair, small_spair
from helpers.golden import golden_values
from helpers.paths import GOLDEN
from helpers.typed import assert_one_line
from helpers.weights import quiet, save, vit
from PIL import Image
from torch.nn import functional as F

import dinobench
from dinobench.cli import main
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.embedded import shape_keypoints
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.protocols import correspondence
from dinobench.protocols.correspondence import Config, profiles, run
from dinobench.runner import with_intervals

NEXT = golden_values("correspondence")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(), tmp_path_factory.mktemp("weights") / "tiny.pth"))


@pytest.fixture(scope="module")
def follower(tmp_path_factory):
    """The backbone of the golden values."""
    weights = quiet(vit(width=192, depth=12, image=224))
    return dinobench.load_backbone(save(weights, tmp_path_factory.mktemp("weights") / "b.pth"))


@pytest.mark.parametrize(
    ("key", "folder"), [("spair_layout", "correspondence_pairs"), ("spair_layout_crops", "correspondence_crops")]
)
def test_golden_pairs(shared_data, tmp_path, follower, key, folder):
    photos = shared_data / "VOCdevkit" / "VOC2012" / "JPEGImages"
    make_spair(tmp_path / "spair", GOLDEN / "next" / folder, photos, cropped="crops" in folder)
    golden = NEXT[key]
    data = load_dataset(str(tmp_path / "spair"), "keypoints")
    config = dataclasses.replace(profiles["dift"], size=golden["input_size"])
    result = run(follower, data, config, LocalContext(folder=tmp_path / "saved"))
    points = json.loads((tmp_path / "saved" / "points.json").read_text())
    assert set(points) == {pair["pair"] for pair in golden["pairs"]}
    wanted = np.concatenate([np.array(pair["predicted_xy"]) for pair in golden["pairs"]])
    found = np.concatenate([np.array(points[pair["pair"]]) for pair in golden["pairs"]])
    assert np.abs(found - wanted).max() <= 1  # 5 % may be further off
    assert result.metrics["pck@0.1"] == pytest.approx(golden["per_point_PCK@0.1"])
    assert result.metrics["pck_image@0.1"] == pytest.approx(golden["per_image_PCK@0.1"])


def grids(backbone, image, side, multiple=1, resample=Image.Resampling.BICUBIC):
    """The last block's map before the final norm of an image that is a square already."""
    pixels = torch.from_numpy(np.asarray(image.resize((side, side), resample)).copy()).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = ((pixels - mean) / std)[None]
    lacking = -side % multiple
    x = F.pad(x, (lacking // 2, lacking - lacking // 2) * 2)
    with torch.inference_mode():
        ((_, patches),) = backbone.blocks(x, [-1])
    return patches[0].T.unflatten(1, (x.shape[2] // 16, x.shape[3] // 16))


def test_probe3d_as_a_plain_loop(tiny):
    """White to a square, keypoints cut to whole pixels, aligned corners, the best patch's corner, per class."""
    data, size = shape_keypoints.pairs(), 150  # which becomes 160: five pixels of nothing on each side
    maps = {}
    for image, pixels in data.pixels.items():
        canvas = np.full((max(pixels.shape), max(pixels.shape), 3), 255, np.uint8)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        maps[image] = F.normalize(grids(tiny, Image.fromarray(canvas), size, 16), dim=0)
    by_class = {}
    for pair in data.pairs:
        both = (pair.source_points, pair.source_size), (pair.target_points, pair.target_size)
        kps = [torch.from_numpy(points * size / max(sides)).int().float() / size for points, sides in both]
        queries = F.grid_sample(maps[pair.source][None], (2 * kps[0] - 1)[None, None], align_corners=True)[0, :, 0]
        best = torch.einsum("fk,fhw->khw", queries, maps[pair.target]).flatten(1).argmax(1)
        point = torch.stack([best % 10, best // 10], 1).float() / 10
        left, top, right, bottom = pair.target_box
        scale = max(right - left, bottom - top) / max(pair.target_size)
        by_class.setdefault(pair.category, []).append((point - kps[1]).norm(dim=1) / scale < 0.1)
    config = dataclasses.replace(profiles["probe3d"], size=size)
    result = run(tiny, data, config, LocalContext())
    wanted = np.mean([float(torch.cat(right).float().mean()) for right in by_class.values()])
    assert result.metrics["pck_class@0.1"] == pytest.approx(100 * wanted)
    assert result.metrics["pck_class_centred@0.1"] != result.metrics["pck_class@0.1"]
    assert [m.name for m in correspondence.metrics(config) if m.primary] == ["pck_class_centred@0.1"]


def test_sd_dino_as_a_plain_loop(tiny):
    """Black around the centre, the patch that a point lies in, the centre of the best, points within their class."""
    data, size = shape_keypoints.pairs(), 144
    maps, found = {}, {}
    for image, pixels in data.pixels.items():
        height, width = pixels.shape[:2]
        inner = [int(np.around(size * side / max(height, width))) for side in (width, height)]
        canvas = np.zeros((size, size, 3), np.uint8)
        top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
        small = Image.fromarray(pixels).resize(inner, Image.Resampling.LANCZOS)
        canvas[top : top + inner[1], left : left + inner[0]] = np.asarray(small)
        maps[image] = (
            F.normalize(grids(tiny, Image.fromarray(canvas), size), dim=0),
            size / max(height, width),
            (left, top),
        )
    for pair in data.pairs:
        (source, scale, offset), (target, target_scale, target_offset) = maps[pair.source], maps[pair.target]
        x, y = ((pair.source_points * scale + offset) * 9 / size).astype(int).T
        best = torch.einsum("fk,fhw->khw", source[:, y, x], target).flatten(1).argmax(1).numpy()
        point = np.stack([best % 9, best // 9], axis=1) * 16 + 16 // 2 - 0.5
        left, top, right, bottom = pair.target_box * target_scale
        error = np.linalg.norm(point - (pair.target_points * target_scale + target_offset), axis=1)
        found.setdefault(pair.category, []).append(error / max(right - left, bottom - top))
    result = run(tiny, data, dataclasses.replace(profiles["sd-dino"], size=150), LocalContext())
    for alpha in (0.1, 0.05, 0.01):
        shares = [float((np.concatenate(errors) < alpha).mean()) for errors in found.values()]
        assert result.metrics[f"pck_class@{alpha:g}"] == pytest.approx(100 * np.mean(shares))
    assert result.notes == ["images of 144 pixels, not 150: a multiple of the patch"]
    assert [m.name for m in correspondence.metrics(profiles["sd-dino"]) if m.primary] == ["pck_class@0.1"]


def test_the_runner_takes_the_result(tiny):
    config = Config(size=64, alphas=(0.1, 0.3))
    result = run(tiny, shape_keypoints.pairs(), config, LocalContext())
    values = with_intervals("correspondence", correspondence.metrics(config), result, seed=0)
    assert next(iter(values)) == "pck@0.1" and len(values) == 8 + 3
    points = sum(len(pair.names) for pair in shape_keypoints.pairs().pairs)
    assert values["pck@0.3"].n == values["pck_class@0.3"].n == points and values["pck_image@0.3"].n == 60
    assert values["pck_class_view0@0.1"].n < points
    for value in values.values():
        assert value.ci_low <= value.value <= value.ci_high
    assert result.items["id"].is_unique and set(result.items["category"]) == set(shape_keypoints.KINDS)


@pytest.mark.parametrize("profile", list(profiles))
def test_processes_give_what_one_does(tiny, profile):
    config = dataclasses.replace(profiles[profile], size=64, pairs_per_class=5)
    data = shape_keypoints.pairs()
    alone = run(tiny, data, config, LocalContext())
    assert alone.items["pair"].nunique() > 25  # five of each class, and others for their viewpoints
    assert alone.items["pck@0.1"].notna().groupby(alone.items["pair"]).all().sum() == 25
    for result in on_processes(3, lambda ctx: run(tiny, data, config, ctx)):
        assert result.metrics == alone.metrics and result.intervals == alone.intervals
        assert result.items.equals(alone.items)


def test_layers_norms_and_what_has_none(tiny, tmp_path):
    data = load_dataset(str(small_spair(tmp_path / "spair")), "keypoints")
    found = [
        run(tiny, data, Config(size=48, layer=layer, norm=norm), LocalContext()).items["distance"].tolist()
        for layer, norm in ((-1, True), (1, True), (0, True), (-1, False))
    ]
    assert found[0] == found[1] and found[0] != found[2] and found[0] != found[3]
    pixels = dinobench.load_backbone("pixels")
    assert "no blocks" not in str(run(pixels, data, Config(size=48), LocalContext()).notes)
    assert "no blocks" in str(run(pixels, data, Config(size=48, norm=False), LocalContext()).notes)
    with pytest.raises(UnsupportedCapability, match="last map only"):
        run(pixels, data, Config(size=48, layer=3), LocalContext())
    with pytest.raises(UserError, match="less than a patch"):
        run(tiny, data, Config(size=15), LocalContext())


def test_broken_images_and_sizes_that_do_not_fit(tiny, tmp_path):
    root = small_spair(tmp_path / "spair", pairs=5)
    (root / "JPEGImages" / "cat" / "1.jpg").write_bytes(b"no image")
    data = load_dataset(str(root), "keypoints")
    with pytest.raises(UserError, match=r"1 of 6 images of spair cannot be read: cat/1.jpg .*--skip-broken"):
        run(tiny, data, Config(size=32), LocalContext())
    for processes in (1, 2):

        def work(ctx):
            ctx.skip_broken = True
            return run(tiny, data, Config(size=32), ctx), sorted(ctx.broken)

        for result, left_out in on_processes(processes, work):
            assert result.items["pair"].nunique() == 3 and left_out == ["spair/cat/1.jpg"]
            assert result.notes == ["2 pairs left out, an image of which cannot be read"]
    Image.new("RGB", (40, 48)).save(root / "JPEGImages" / "cat" / "1.jpg")
    with pytest.raises(UserError, match=r"cat/1\.jpg is 40 x 48 pixels, its pairs say 48 x 40"):
        run(tiny, load_dataset(str(root), "keypoints"), Config(size=32), LocalContext())


def test_settings():
    assert [(p.size, p.matching, p.strict, p.norm) for p in profiles.values()] == [
        (768, "pixels", False, True), (840, "patches", True, False), (800, "corners", True, False),
    ]  # fmt: skip
    for name, value, words in (
        ("alphas", "0.1,0.1", "different"),
        ("size", "0", "size"),
        ("matching", "x", "matching"),
    ):
        with pytest.raises(UserError, match=words):
            resolve_config(correspondence, None, {name: value})


def test_as_typed(tmp_path, capsys, own_cache, monkeypatch):
    def typed(*line):
        arguments = ["run", "--protocol", "correspondence", "--ckpt", "pixels", "--out", str(tmp_path / "r"), *line]
        monkeypatch.setattr(sys, "argv", ["dinobench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    (tmp_path / "empty" / "PairAnnotation" / "test").mkdir(parents=True)
    assert_one_line(*typed("--data", str(tmp_path / "empty")), "no pairs")
    assert_one_line(*typed("--data", str(tmp_path / "none")), "no such file")
    assert_one_line(*typed("--data", "shapes", "--set", "alphas=0"), "alphas")
    code, out, _ = typed("--data", "shapes", "--profile", "sd-dino", "--set", "size=48")
    assert code == 0 and "pck_class@0.1" in out
