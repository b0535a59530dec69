"""Attention masks scored through counts per patch against masks pixel by pixel; layouts, settings, pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import torch
from helpers.scores import jaccard
from helpers.weights import save, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

import dinobench
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data.embedded import shapes
from dinobench.data.layouts import coco, voc
from dinobench.data.video import label_png
from dinobench.errors import UserError
from dinobench.metrics.segmentation import kept_mass_masks
from dinobench.protocols import attention
from dinobench.protocols.attention import Config, PatchCounts, jaccard_of_shares, patch_counts, run
from dinobench.report import figures
from dinobench.runner import with_intervals

SMALL = Config(image_size=64, sweep=(0.3, 0.9))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(), tmp_path_factory.mktemp("weights") / "tiny.pth"))


def nearest(mask, size):
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)) > 0


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(5, 90),
    width=st.integers(5, 90),
    patch=st.sampled_from([4, 7, 8]),
    with_void=st.booleans(),
)
def test_counts_score_as_pixels_do(seed, height, width, patch, with_void):
    rng = np.random.default_rng(seed)
    size, grid = 48, 48 // patch
    side = grid * patch
    masks = rng.random((3, height, width)) < 0.4
    void = rng.random((height, width)) < 0.2 if with_void else None
    maps, shares = rng.random((2, grid * grid)), (0.6, 0.2, 0.95)
    inside, valid = patch_counts(masks, void, size, patch)
    ours = jaccard_of_shares(maps, PatchCounts(inside, valid, (1, 2, 3)), shares)
    small = [nearest(m, size)[:side, :side] for m in masks]
    unknown = nearest(void, size)[:side, :side] if with_void else None
    for h in range(2):
        for s, share in enumerate(shares):
            kept = kept_mass_masks(maps[h], share).reshape(grid, grid).repeat(patch, 0).repeat(patch, 1)
            wanted = [jaccard(kept, m, unknown) for m in small]
            np.testing.assert_allclose(ours[:, h, s], wanted, atol=1e-12)


class Told:
    """A backbone whose attention is given: (heads, N) for every image in turn."""

    patch_size = 16
    capabilities = frozenset({"attention"})

    def __init__(self, maps):
        self.maps = list(maps)

    def cls_attention(self, x):
        taken, self.maps = self.maps[: len(x)], self.maps[len(x) :]
        return torch.tensor(np.stack(taken))


class Pair:
    """Two images of 32 x 32: one with two masks, one with one."""

    name = "pair"

    def ids(self, kind):
        return ["a", "b"]

    def load(self, image_id):
        return Image.new("RGB", (32, 32))

    def masks(self, image_id, kind):
        left, top = np.zeros((2, 32, 32), bool)
        left[:, :16], top[:16] = True, True
        masks = np.stack([left, top]) if image_id == "a" else left[None]
        return attention_masks(masks)


def attention_masks(masks):
    from dinobench.data.masks import Masks

    return Masks(masks, tuple(range(1, len(masks) + 1)))


LEFT, TOP, LAST = [0.5, 0.0, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]
MAPS = [np.array([LEFT, LAST]), np.array([LAST, LEFT])]


def told(**changes):
    config = dataclasses.replace(Config(image_size=32, keep=0.6, sweep=()), **changes)
    return run(Told(MAPS), Pair(), config, LocalContext())


def test_best_head_per_mask_then_means_over_masks_then_images():
    result = told()
    # image a: left 1 by head 0, top 1/3 by head 0; image b: left 1 by head 1
    assert result.items["iou"].tolist() == pytest.approx([1, 1 / 3, 1])
    assert result.items["head"].tolist() == [0, 0, 1]
    assert result.items["id"].tolist() == ["a/1", "a/2", "b/1"]
    assert result.metrics["jaccard"] == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_best_single_head_over_the_set():
    result = told(heads="best_single")
    # head 0: a (1 + 1/3) / 2, b 0; head 1: a 0, b 1
    assert result.metrics["jaccard"] == pytest.approx(50)
    assert set(result.items["head"]) == {1} and "head 1" in result.notes[0]


def test_mean_of_heads_is_one_map():
    result = told(heads="mean")
    # LEFT and LAST together: 0.25, 0, 0.25, 0.5, of which the lower row holds 0.6
    assert "head" not in result.items
    assert result.metrics["jaccard"] == pytest.approx(100 * np.mean([(1 / 3 + 0) / 2, 1 / 3]))


def test_the_runner_takes_the_result_and_counts_images(tiny):
    result = run(tiny, shapes.images(), SMALL, LocalContext())
    values = with_intervals("attention", attention.metrics(SMALL), result, seed=0)
    assert list(values) == ["jaccard", "jaccard@0.3", "jaccard@0.9"]
    assert values["jaccard"].n == shapes.COUNT and len(result.items) > shapes.COUNT
    assert values["jaccard"].ci_low < values["jaccard"].value < values["jaccard"].ci_high
    means = result.items.groupby("image")["iou"].mean()
    assert values["jaccard"].value == pytest.approx(100 * means.mean())
    swept = run(tiny, shapes.images(), dataclasses.replace(SMALL, keep=0.3), LocalContext())
    assert swept.metrics["jaccard"] == pytest.approx(result.metrics["jaccard@0.3"])


def test_profiles():
    dino, naseer = attention.profiles["dino2021"], attention.profiles["naseer2021"]
    assert (dino.image_size, dino.keep, dino.masks) == (480, 0.6, "instances")
    assert (naseer.image_size, naseer.keep, naseer.masks) == (512, 0.9, "classes")
    with pytest.raises(UserError, match="masks"):
        resolve_config(attention, None, {"masks": "objects"})
    with pytest.raises(UserError, match="share of attention"):
        resolve_config(attention, None, {"keep": "60"})


# --- layouts ---


def make_voc(root):
    folder = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    labels = np.zeros((20, 30), np.uint8)
    labels[2:8, 2:8], labels[10:18, 10:28], labels[8, 8] = 1, 2, 255
    Image.new("RGB", (30, 20)).save(folder / "JPEGImages" / "x.jpg")
    (folder / "SegmentationObject" / "x.png").write_bytes(label_png(labels))
    labels[labels == 2], labels[labels == 1] = 1, 1
    (folder / "SegmentationClass" / "x.png").write_bytes(label_png(np.where(labels == 1, 15, labels)))
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("x\n")
    return root / "VOCdevkit"


def test_voc_instances_classes_and_void(tmp_path):
    path = make_voc(tmp_path)
    assert voc.recognises(path) and voc.recognises(path / "VOC2012") and voc.default_name(path) == "VOC2012"
    data = voc.load(path, "VOC2012")
    objects, classes = data.masks("x", "instances"), data.masks("x", "classes")
    assert objects.ids == (1, 2) and classes.ids == (15,)
    assert objects.void.sum() == 1 and objects.masks.sum() == classes.masks.sum() == 36 + 144
    assert voc.load(path / "VOC2012", "other").fingerprint == data.fingerprint


def test_voc_faults_are_named(tmp_path):
    path = make_voc(tmp_path)
    mask = path / "VOC2012" / "SegmentationObject" / "x.png"
    Image.new("RGB", (30, 20)).save(mask)
    with pytest.raises(UserError, match=r"x.png: a mask in mode RGB"):
        voc.load(path, "VOC").masks("x", "instances")
    mask.unlink()
    with pytest.raises(UserError, match=r"x.png: missing"):
        voc.load(path, "VOC")
    shutil.rmtree(mask.parent)
    with pytest.raises(UserError, match="no masks of instances"):
        voc.load(path, "VOC").ids("instances")


def test_masks_of_another_size_than_the_image_are_named(tmp_path, tiny):
    path = make_voc(tmp_path)
    (path / "VOC2012" / "SegmentationObject" / "x.png").write_bytes(label_png(np.ones((9, 9), np.uint8)))
    with pytest.raises(UserError, match="masks of x are 9 x 9 pixels, its image 30 x 20"):
        run(tiny, voc.load(path, "VOC"), SMALL, LocalContext())


def make_coco(root):
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    Image.new("RGB", (30, 20)).save(root / "val2017" / "000001.jpg")
    Image.new("RGB", (30, 20)).save(root / "val2017" / "000002.jpg")
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[5:9, 5:9] = 1
    packed = rle.encode(mask)
    packed["counts"] = packed["counts"].decode()
    box = [[10, 10, 20, 10, 20, 15, 10, 15]]
    common = {"image_id": 1, "iscrowd": 0, "area": 16, "bbox": [0, 0, 1, 1]}
    annotations = [
        {**common, "id": 7, "category_id": 3, "segmentation": packed},
        {**common, "id": 8, "category_id": 3, "segmentation": box},
        {**common, "id": 9, "category_id": 5, "segmentation": packed, "iscrowd": 1},
        {**common, "id": 10, "category_id": 5, "segmentation": packed, "iscrowd": 1, "image_id": 2},
    ]
    images = [{"id": i, "file_name": f"{i:06}.jpg", "height": 20, "width": 30} for i in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3}, {"id": 5}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def test_coco_leaves_crowds_out(tmp_path, capsys):
    data = coco.load(make_coco(tmp_path), "coco")
    assert list(data.ids("instances")) == ["000001"]  # the other image has a crowd only
    objects, classes = data.masks("000001", "instances"), data.masks("000001", "classes")
    assert objects.ids == (7, 8) and classes.ids == (3,)
    assert objects.masks.shape == (2, 20, 30) and objects.masks[0].sum() == 16
    assert (classes.masks[0] == objects.masks.any(0)).all()
    assert capsys.readouterr().out == ""  # pycocotools talks on stdout, which is for results


def test_coco_faults_are_named(tmp_path):
    make_coco(tmp_path)
    (tmp_path / "val2017" / "000001.jpg").unlink()
    with pytest.raises(UserError, match=r"000001.jpg: missing"):
        coco.load(tmp_path, "coco")
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(UserError, match=r"instances_val2017.json: not a COCO annotation file"):
        coco.load(tmp_path, "coco")


@pytest.mark.slow
def test_real_layouts(shared_data, tiny):
    data = voc.load(shared_data / "VOCdevkit", "VOC")
    assert (len(data.ids("classes")), len(data.ids("instances"))) == (150, 20)
    assert 0 < run(tiny, data, SMALL, LocalContext()).metrics["jaccard"] < 60
    data = coco.load(shared_data / "coco", "coco")
    assert len(data.ids("instances")) == 100
    assert 0 < run(tiny, data, SMALL, LocalContext()).metrics["jaccard"] < 60


# --- pictures ---


def test_attention_figure_shows_every_head():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    figure = figures.attention_figure(image, rng.random((8, 24)), (4, 6), "random weights")
    titles = [axis.get_title() for axis in figure.axes]
    assert [t for t in titles if t.startswith("head")] == [f"head {i}" for i in range(8)]
    assert figure._suptitle.get_text() == "random weights"
    with Image.open(io.BytesIO(figures.figure_png(figure))) as png:
        assert png.format == "PNG" and png.width > 1000


def test_gif_has_a_page_per_frame_with_truth_beside(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    labels = np.zeros((3, 30, 40), np.uint8)
    labels[:, 5:15, 5:15], labels[:, 20:25, 20:35] = 1, 2
    content = figures.propagation_gif(frames, labels, labels, "cat", width=80)
    with Image.open(io.BytesIO(content)) as gif:
        assert (gif.n_frames, gif.width, gif.info["loop"]) == (3, 160, 0)


def test_overlay_leaves_the_rest_and_tells_objects_apart():
    image = np.full((20, 20, 3), 128, np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[2:8, 2:8], labels[11:18, 11:18] = 1, 2
    out = figures.overlay(image, labels)
    assert (out[0, 15] == 128).all() and (out[4, 4] != out[14, 14]).any() and (out[4, 4] != 128).any()
