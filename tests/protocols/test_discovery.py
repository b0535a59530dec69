"""Boxes against those of the programs that were published; settings, files, refusals, processes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.boxes import make_voc_boxes
from helpers.contexts import on_processes
from helpers.golden import golden_values
from helpers.typed import assert_one_line
from helpers.weights import golden_input, quiet, save, vit

import dinobench
from dinobench.cli import main
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.protocols import discovery
from dinobench.protocols.discovery import Config, describe, run
from dinobench.runner import with_intervals

METHODS = {name: Config(method=name, head=1 if name == "dinoseg" else 4) for name in ("lost", "tokencut", "dinoseg")}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    weights = quiet(vit(depth=2))
    return dinobench.load_backbone(save(weights, tmp_path_factory.mktemp("weights") / "tiny.pth"), heads=2)


@pytest.fixture(scope="module")
def golden_backbone(tmp_path_factory):
    weights = quiet(vit(width=192, depth=12, patch=16, image=224))
    return dinobench.load_backbone(save(weights, tmp_path_factory.mktemp("weights") / "golden.pth"))


def first(data, n):
    return replace(data, ids=data.ids[:n], boxes=data.boxes[:n])


def boxes_of(result) -> dict[str, list[int]]:
    return dict(zip(result.items["id"], result.items[["x1", "y1", "x2", "y2"]].to_numpy().tolist(), strict=True))


class Remembering:
    """A backbone that sees an image once, whatever number of methods asks for it."""

    def __init__(self, backbone):
        self.backbone, self.seen = backbone, {}

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def ask(self, name, x):
        key = (name, x.shape, hashlib.sha256(x.numpy()).digest())
        if key not in self.seen:
            self.seen[key] = getattr(self.backbone, name)(x)
        return self.seen[key]

    def keys(self, x):
        return self.ask("keys", x)

    def cls_attention(self, x):
        return self.ask("cls_attention", x)


def check_golden(backbone, data, want, methods):
    backbone = Remembering(backbone)
    for method, config in methods.items():
        result = run(backbone, data, config, LocalContext())
        found = boxes_of(result)
        same = [found[image] == want["per_image"][image][method] for image in found]
        assert sum(same) >= len(same) - 1, method
        ious = [want["per_image"][image][f"{method}_best_iou"] for image in found]
        ours = result.items["iou"].to_numpy()
        np.testing.assert_allclose(ours[same], np.array(ious)[same], atol=2e-6)
        if len(found) == want["images"]:
            assert result.metrics["corloc"] == want["corloc"][method]


RELEASED = METHODS | {f"dinoseg_head{h}": replace(METHODS["dinoseg"], head=h) for h in range(3)}
del RELEASED["dinoseg"]


def test_boxes_meet_the_golden_ones_on_some_images(shared_data, golden_backbone):
    data = first(load_dataset(str(shared_data / "VOCdevkit"), "boxes").select(), 2)
    methods = {method: RELEASED[method] for method in ("lost", "tokencut", "dinoseg_head1")}
    check_golden(golden_backbone, data, golden_values("discovery/discovery_voc"), methods)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "images", "methods"),
    [("voc", "VOCdevkit", 20, list(RELEASED)), ("coco", "coco", 10, ["lost", "tokencut", "dinoseg_head2"])],
    ids=["voc", "coco"],
)
def test_boxes_meet_the_golden_ones(name, folder, images, methods, shared_data, golden_backbone):
    data = first(load_dataset(str(shared_data / folder), "boxes").select(), images)
    want = golden_values(f"discovery/discovery_{name}")
    assert list(data.ids) == list(want["per_image"])
    check_golden(golden_backbone, data, want, {method: RELEASED[method] for method in methods})


@pytest.mark.parametrize("method", METHODS)
def test_the_runner_takes_the_result(method, tiny):
    data, config = load_dataset("shapes", "boxes"), METHODS[method]
    result = run(tiny, data, config, LocalContext())
    values = with_intervals("discovery", discovery.metrics(config), result, seed=0)
    assert [value.n for value in values.values()] == [24] * len(values)
    assert next(iter(values)) == ("corloc_sound" if method == "dinoseg" else "corloc")
    assert len(result.items) == 24 and list(result.items["id"]) == list(data.select().ids)
    assert ((result.items["iou"] >= 0.5) == result.items["corloc"]).all()
    assert bool(result.notes) == (method == "dinoseg")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("processes", [2, 30])
def test_processes_share_the_images(method, processes, tiny, tmp_path):
    data, config = load_dataset("shapes", "boxes").select(), METHODS[method]
    alone = run(tiny, data, config, LocalContext(folder=tmp_path))
    saved = json.loads((tmp_path / "boxes.json").read_text())
    assert saved == boxes_of(alone) and all(isinstance(side, int) for box in saved.values() for side in box)
    for found in on_processes(processes, lambda ctx: run(tiny, data, config, ctx)):
        assert found.metrics == alone.metrics and found.items.equals(alone.items)


def test_images_of_other_sizes_are_padded_and_boxes_clipped(tmp_path, tiny):
    """60 x 40 pixels in patches of 16: a grid of 3 x 4 that reaches beyond the image on both sides."""
    path = make_voc_boxes(tmp_path, {name: [(1, 1, 60, 40, False, False)] for name in "abc"})
    data = load_dataset(str(path), "boxes")
    result = run(tiny, data, METHODS["lost"], LocalContext())
    assert (result.items["x2"] <= 60).all() and (result.items["y2"] <= 40).all()
    released = run(tiny, data, METHODS["dinoseg"], LocalContext()).items
    assert released[["x2", "y2"]].to_numpy().max() > 40
    one_by_one = run(tiny, data, METHODS["lost"], LocalContext(batch_size=1))
    assert one_by_one.items.equals(result.items)


def test_unreadable_images_are_named_or_left_out(tmp_path, tiny):
    path = make_voc_boxes(tmp_path, {name: [(1, 1, 60, 40, False, False)] for name in "abc"})
    (path / "VOC2007" / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    data = load_dataset(str(path), "boxes")
    with pytest.raises(UserError, match=r"1 of 3 images of VOC2007 cannot be read: b "):
        run(tiny, data, Config(), LocalContext())
    ctx = LocalContext(skip_broken=True)
    assert list(run(tiny, data, Config(), ctx).items["id"]) == ["a", "c"] and ctx.broken == {"VOC2007/b"}


def test_keys_stand_head_by_head(tiny):
    x = golden_input(2, 64, 48)
    keys = tiny.keys(x)
    described, grid = describe(tiny, x, METHODS["lost"])
    assert described.shape == (2, 12, 64) and grid == (4, 3)
    assert torch.equal(described[1, 5, 32:], keys[1, 1, 5])
    tokens, grid = describe(tiny, x, replace(METHODS["lost"], features="tokens"))
    assert grid == (4, 3)
    torch.testing.assert_close(tokens, tiny.layers(x)[0][1])


def test_what_a_backbone_lacks_is_said():
    data, resnet = load_dataset("shapes", "boxes"), dinobench.load_backbone("random:resnet18")
    for config, need in ((METHODS["lost"], "keys"), (METHODS["dinoseg"], "attention")):
        with pytest.raises(UnsupportedCapability, match=f"has no {need} for {config.method}"):
            run(resnet, data, config, LocalContext())
    with pytest.raises(UnsupportedCapability, match="its map cuts through pixels"):
        run(dinobench.load_backbone("pixels:7"), data, Config(method="tokencut", features="tokens"), LocalContext())
    few = first(data.select(), 2)
    for backbone in (resnet, *map(dinobench.load_backbone, ("random:tf_efficientnet_lite0", "pixels"))):
        assert len(run(backbone, few, Config(features="tokens"), LocalContext()).items) == 2


def test_a_head_that_is_not_there(tiny):
    with pytest.raises(UserError, match=r"has 2 heads, counted from 0, and no head 4; choose one with --set head=1"):
        run(tiny, load_dataset("shapes", "boxes"), discovery.profiles["dinoseg"], LocalContext())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": "0"}, "candidates = 0 must be at least 1"),
        ({"tau": "1.5"}, "tau = 1.5 is a cosine"),
        ({"tau": "nan"}, "tau"),
        ({"keep": "0"}, "keep = 0.0 is a share"),
        ({"head": "-1"}, "head = -1 must not be negative"),
        ({"method": "maskcut"}, "method"),
        ({"method": "dinoseg", "features": "tokens"}, "dinoseg compares no patches"),
    ],
)
def test_settings_at_fault(settings, message):
    with pytest.raises(UserError, match=message):
        resolve_config(discovery, None, settings)


def test_profiles_are_the_releases():
    assert list(discovery.profiles) == ["lost", "tokencut", "dinoseg"]
    lost, tokencut, dinoseg = discovery.profiles.values()
    assert (lost.method, lost.candidates, lost.features) == ("lost", 100, "keys")
    assert (tokencut.method, tokencut.tau) == ("tokencut", 0.2)
    assert (dinoseg.method, dinoseg.keep, dinoseg.head) == ("dinoseg", 0.6, 4)


def test_as_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))
    weights = save(quiet(vit(depth=2)), tmp_path / "tiny.pth")
    path = make_voc_boxes(tmp_path, {name: [(1, 1, 60, 40, name == "a", False)] for name in "ab"})
    common = ["run", "--protocol", "discovery", "--data", str(path), "--ckpt", str(weights), "--heads", "2"]
    common += ["--out", str(tmp_path / "out"), "--json"]

    def typed(*words):
        monkeypatch.setattr("sys.argv", ["dinobench", *common, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = typed("--set", "no_hard=true", "--save", str(tmp_path / "saved"))
    (record,) = json.loads(out)
    assert code == 0 and record["metrics"]["corloc"]["n"] == 1 and "truncated or difficult" in record["notes"][0]
    assert list(json.loads((tmp_path / "saved" / "boxes.json").read_text())) == ["b"]
    _, out, _ = typed("--profile", "tokencut", "--set", "split=val")
    assert json.loads(out)[0]["metrics"]["corloc"]["n"] == 1
    assert_one_line(*typed("--set", "split=none"), "unknown split of VOC2007 'none'")
    assert_one_line(*typed("--profile", "dinoseg"), "has 2 heads, counted from 0, and no head 4")
