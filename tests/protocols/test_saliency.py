"""TokenCut's foregrounds against the scores of the published program; sizes, files, refusals, processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.golden import golden_values
from helpers.plain import arrays, normalised, tokencut_foreground, vit_maps
from helpers.plain import saliency as plain_scores
from helpers.saliency import make_salient
from helpers.voc import make_voc
from helpers.weights import quiet, save, vit
from PIL import Image

import dinobench
from dinobench.algorithms.bilateral_solver import bilateral_solver
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.video import label_png, read_labels
from dinobench.errors import UserError
from dinobench.metrics.saliency import saliency_scores, thresholds
from dinobench.protocols import saliency
from dinobench.protocols.saliency import Config, profiles, run, upsampled
from dinobench.runner import with_intervals


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    weights = quiet(vit(depth=2))
    return dinobench.load_backbone(save(weights, tmp_path_factory.mktemp("weights") / "tiny.pth"), heads=2)


class Some:
    """A few images of a data set."""

    def __init__(self, whole, ids):
        self.name, self.load, self.masks, self._ids = whole.name, whole.load, whole.masks, list(ids)

    def ids(self, kind):
        return self._ids


def check_golden(shared_data, tmp_path, images):
    weights = quiet(vit(width=192, depth=12, patch=16, image=224))
    backbone = dinobench.load_backbone(save(weights, tmp_path / "golden.pth"))
    golden = golden_values("discovery/saliency_voc")
    wanted = dict(list(golden["per_image"].items())[:images])
    data = Some(load_dataset(str(shared_data / "VOCdevkit"), "masks"), wanted)
    result = run(backbone, data, Config(), LocalContext(folder=tmp_path))
    for (image, want), iou in zip(wanted.items(), result.items["iou"], strict=True):
        pixels = int(read_labels(tmp_path / f"{image}.png").sum())
        assert abs(pixels - want["pixels"]) <= 0.005 * want["pixels"], image
        assert iou == pytest.approx(want["iou"], abs=0.002)
    return result, golden["metrics"]


def test_foregrounds_meet_the_golden_ones_on_some_images(shared_data, tmp_path):
    check_golden(shared_data, tmp_path, 2)


@pytest.mark.slow
def test_foregrounds_meet_the_golden_ones(shared_data, tmp_path):
    result, want = check_golden(shared_data, tmp_path, 12)
    for ours, theirs in (("iou", "IoU"), ("accuracy", "accuracy"), ("max_f", "F_max")):
        assert result.metrics[ours] / 100 == pytest.approx(want[theirs], abs=0.002)


def plain_pair(data, name, weights, heads):
    """The foreground that the steps of the published program find one by one, and the annotated one."""
    image, masks = data.load(name), data.masks(name, "classes")
    truth = masks.masks.any(axis=0) & (True if masks.void is None else ~masks.void)
    width, height = (16 * round(side / 16) for side in image.size)
    _, keys = vit_maps(weights, normalised(image.resize((width, height), Image.Resampling.LANCZOS)), heads)
    return tokencut_foreground(keys, truth.shape), truth


@pytest.mark.slow
def test_plain_steps_find_the_golden_foregrounds(shared_data):
    weights = arrays(quiet(vit(width=192, depth=12, patch=16, image=224)))
    golden, data = golden_values("discovery/saliency_voc"), load_dataset(str(shared_data / "VOCdevkit"), "masks")
    pairs = []
    for name, want in golden["per_image"].items():
        pairs.append(plain_pair(data, name, weights, 3))
        assert abs(int(pairs[-1][0].sum()) - want["pixels"]) <= 0.005 * want["pixels"], name
        assert plain_scores(pairs[-1:])["IoU"] == pytest.approx(want["iou"], abs=0.002)
    assert plain_scores(pairs) == pytest.approx(golden["metrics"], abs=0.002)


def test_the_plain_steps_find_the_same_foregrounds(tiny, tmp_path):
    names = load_dataset("shapes", "masks").ids("classes")[:6]
    data, weights = Some(load_dataset("shapes", "masks"), names), arrays(quiet(vit(depth=2)))
    result = run(tiny, data, Config(), LocalContext(folder=tmp_path))
    pairs = [plain_pair(data, name, weights, 2) for name in names]
    for name, (found, _) in zip(names, pairs, strict=True):
        assert np.array_equal(read_labels(tmp_path / f"{name}.png") > 0, found), name
    wanted = plain_scores(pairs)
    assert [result.metrics[n] / 100 for n in ("iou", "accuracy", "max_f")] == pytest.approx(list(wanted.values()))


@pytest.mark.parametrize("processes", [1, 2, 30])
def test_processes_share_the_images(processes, tiny):
    data = load_dataset("shapes", "masks")
    alone = run(tiny, data, Config(), LocalContext())
    values = with_intervals("saliency", saliency.metrics(Config()), alone, seed=0)
    assert [(name, value.n) for name, value in values.items()] == [("iou", 24), ("accuracy", 24), ("max_f", 24)]
    for found in on_processes(processes, lambda ctx: run(tiny, data, Config(), ctx)):
        assert found.metrics == alone.metrics and found.items.equals(alone.items)


@pytest.mark.parametrize(
    ("size", "grid"), [((33, 50), (3, 4)), ((16, 16), (1, 1)), ((7, 5), (2, 3)), ((366, 500), (23, 31))]
)
def test_masks_grow_as_torch_does_it(size, grid):
    mask = np.random.default_rng(0).random(grid) < 0.5
    want = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="nearest")
    assert np.array_equal(upsampled(mask, size), want[0, 0].numpy() > 0)


def test_void_is_background_and_other_sizes_are_named(tmp_path, tiny):
    path = make_voc(tmp_path)
    result = run(tiny, load_dataset(str(path), "masks"), Config(), LocalContext())
    assert list(result.items["id"]) == ["x"]
    (path / "VOC2012" / "SegmentationClass" / "x.png").write_bytes(label_png(np.ones((9, 9), np.uint8)))
    with pytest.raises(UserError, match="image and mask of x differ in size"):
        run(tiny, load_dataset(str(path), "masks"), Config(), LocalContext())


def test_unreadable_images_are_named(tmp_path, tiny):
    path = make_voc(tmp_path)
    (path / "VOC2012" / "JPEGImages" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 images of VOC2012 can be read: x"):
        run(tiny, load_dataset(str(path), "masks"), Config(), LocalContext())


def test_settings_at_fault():
    with pytest.raises(UserError, match=r"tau = 2.0 is a cosine"):
        resolve_config(saliency, None, {"tau": "2"})
    with pytest.raises(UserError, match=r"sigma_luma = 0.0 must be at least 1"):
        resolve_config(saliency, None, {"sigma_luma": "0"})


def test_the_solver_makes_masks_soft_and_the_best_threshold_counts(tiny, tmp_path):
    data = Some(load_dataset("shapes", "masks"), ["shapes/00", "shapes/01", "shapes/02"])
    config = profiles["tokencut-bs"]
    result = run(tiny, data, config, LocalContext(folder=tmp_path))
    plain = run(tiny, data, Config(), LocalContext(folder=tmp_path / "plain"))
    wanted = []
    for image, iou in zip(data.ids(""), result.items["iou"], strict=True):
        hard = read_labels(tmp_path / "plain" / f"{image}.png") > 0
        soft = bilateral_solver(np.asarray(data.load(image)), hard)
        truth = data.masks(image, "classes").masks.any(axis=0)
        assert np.array_equal(read_labels(tmp_path / f"{image}.png"), soft > 0.5)
        assert iou == saliency_scores(soft > 0.5, truth).iou
        wanted.append([saliency_scores(soft > t, truth).max_f for t in thresholds()])
    best = np.mean(wanted, axis=0)
    assert result.metrics["max_f"] == pytest.approx(100 * best.max())
    assert result.items["max_f"].tolist() == pytest.approx([f[best.argmax()] for f in wanted])
    assert f"above {thresholds()[best.argmax()]:.3f}, the best threshold" in result.notes[0] and not plain.notes
    for found in on_processes(2, lambda ctx: run(tiny, data, config, ctx)):
        assert found.metrics == result.metrics and found.items.equals(result.items)


def test_salient_objects_through_the_front_door(own_cache, tmp_path):
    path = make_salient(tmp_path / "set")
    for profile in profiles:
        (record,) = dinobench.run(
            "saliency", "random:vit_tiny_patch16_224", str(path), profile=profile, out=tmp_path / "results"
        )
        assert record.dataset == "ECSSD" and record.metrics["iou"].n == 3 and record.profile == profile
    assert (
        "solver"
        not in dinobench.run("saliency", "random:vit_tiny_patch16_224", str(path), out=tmp_path / "results")[0].config
    )
