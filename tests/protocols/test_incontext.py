"""In-context segmentation against the release's values, a plain second implementation and what must always hold."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.golden import golden_values
from helpers.label_maps import halves, voc_folder, write_pair
from helpers.typed import assert_one_line
from helpers.weights import save, vit
from PIL import Image
from torch.nn import functional as F

import dinobench
from dinobench.algorithms.semantic_result import semantic_result as whole
from dinobench.cli import main
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data.embedded import shape_scenes
from dinobench.data.layouts.dense import ade20k, voc_segmentation
from dinobench.data.video import read_labels
from dinobench.errors import UserError
from dinobench.metrics.semantic import areas, scores
from dinobench.protocols import incontext
from dinobench.protocols.incontext import Config, run
from dinobench.runner import with_intervals

CASES = golden_values("incontext_segmentation")["voc"]
SMALL = Config(size=64, augment="none", k=5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(), tmp_path_factory.mktemp("weights") / "tiny.pth"))


@pytest.fixture(scope="module")
def data():
    return shape_scenes.scenes()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['input_size']} pixels")
def test_golden_of_real_images(case, shared_data, tmp_path, monkeypatch):
    source, folder = shared_data / "VOCdevkit" / "VOC2012", tmp_path / "VOC2012"
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part in ("JPEGImages", "SegmentationClass"):
        (folder / part).symlink_to(source / part)
    for split in ("train", "val"):
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(case[split]) + "\n")
    backbone = dinobench.load_backbone(save(vit(width=192, depth=12, patch=16, image=224), tmp_path / "golden.pth"))
    counted, memories = [], []
    monkeypatch.setattr(incontext, "semantic_result", lambda ids, found: counted.append(found) or whole(ids, found))
    attend = incontext.attend
    monkeypatch.setattr(incontext, "attend", lambda *args, **how: memories.append(attend(*args, **how)) or memories[-1])
    config = Config(size=case["input_size"], k=case["k"], temperature=case["beta"], memory=0, augment="none")
    result = run(backbone, voc_segmentation.load(folder, "VOC2012"), config, LocalContext())
    intersection, predicted, labelled = counted[0].sum(axis=0)
    np.testing.assert_array_equal(labelled, case["labelled_pixels"])
    slack = 0.0001 * labelled.sum()  # asked for is ten times as much
    np.testing.assert_allclose(intersection, case["intersect"], atol=slack)
    np.testing.assert_allclose(predicted + labelled - intersection, case["union"], atol=slack)
    np.testing.assert_allclose(memories[0][0] / 256, case["label_hat_first_patch"], atol=1e-4)
    np.testing.assert_allclose(memories[0][50] / 256, case["label_hat_patch_50"], atol=1e-4)
    assert f"memory: {case['memory_rows']:,} patches" in result.notes[0]
    assert result.metrics["mIoU"] == pytest.approx(100 * case["miou_identity_absent_left_out"], abs=0.01)
    released = case["miou_released (hungarian, absent classes count 0)"]
    assert result.metrics["mIoU_released"] == pytest.approx(100 * released, abs=0.01)


def plain(backbone, data, config):
    """The same without blocks, batches and shortcuts: areas summed over the test images."""

    def seen(split, index):
        image = split.load(index).resize((config.size, config.size), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 255).float()
        x = (x - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[:, None, None]
        labels = torch.from_numpy(split.labels(index).astype(np.int64))
        with torch.inference_mode():
            patches = F.normalize(backbone.layers(x[None], 1)[0][1][0], dim=-1)
        return patches, F.interpolate(labels[None, None].double(), (config.size, config.size))[0, 0].long()

    keys, values, classes = [], [], len(data.classes)
    for index in range(len(data.train)):
        patches, labels = seen(data.train, index)
        keys.append(patches)
        shares = F.one_hot(labels, classes).float().unfold(0, 16, 16).unfold(1, 16, 16).mean((-1, -2))
        values.append(shares.flatten(0, 1))
    keys, values = torch.cat(keys), torch.cat(values)
    total = 0
    for index in range(len(data.test)):
        patches, labels = seen(data.test, index)
        cosine, near = (patches @ keys.T).topk(config.k)
        soft = (torch.softmax(cosine / config.temperature, -1)[..., None] * values[near]).sum(1)
        grid = soft.T.reshape(1, classes, config.size // 16, -1)
        full = F.interpolate(grid, (config.size, config.size), mode="bilinear")[0].argmax(0)
        total = total + areas(full.numpy(), labels.numpy(), classes)
    return total


def test_a_plain_implementation_agrees(tiny, data):
    found, wanted = run(tiny, data, SMALL, LocalContext()), scores(plain(tiny, data, SMALL))
    for name, value in wanted.items():
        assert found.metrics[name] == pytest.approx(100 * value, abs=0.05)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, augment="hummingbird", memory=300)])
def test_several_processes_equal_one(tiny, data, config):
    one = run(tiny, data, config, LocalContext())
    for other in on_processes(2, lambda ctx: run(tiny, data, config, ctx)):
        assert other.metrics == pytest.approx(one.metrics, abs=1e-9)
        assert other.items.equals(one.items) and other.notes == one.notes


def test_the_memory_is_bounded(tiny, data):
    """24 images with two views each of 16 patches."""
    config = Config(size=64, k=3)
    for memory, kept in ((0, 24 * 2 * 16), (10**6, 24 * 2 * 16), (200, 24 * 2 * 4)):
        assert run(tiny, data, replace(config, memory=memory), LocalContext()).notes[0].startswith(f"memory: {kept:,} ")
    with pytest.raises(UserError, match="memory = 47 is less than one patch for each of 48 views"):
        run(tiny, data, replace(config, memory=47), LocalContext())
    with pytest.raises(UserError, match="k = 193, but the memory has 192 patches only"):
        run(tiny, data, replace(config, memory=200, k=193), LocalContext())


def test_the_seed_decides_what_is_drawn(tiny, data):
    config = replace(SMALL, augment="hummingbird", memory=200)
    first, again, other = (run(tiny, data, config, LocalContext(seed=seed)).metrics for seed in (0, 0, 1))
    assert first == again != other


def test_a_training_image_knows_itself(tiny, data):
    """Searching the images that the memory is of, with one neighbour, each patch finds its own labels."""
    result = run(tiny, replace(data, test=data.train), replace(SMALL, size=192, k=1), LocalContext())
    assert result.metrics["aAcc"] > 90 and result.metrics["mIoU"] > 70
    assert result.metrics["mIoU_released"] == pytest.approx(result.metrics["mIoU"])


def test_metrics_have_intervals_and_items(tiny, data):
    result = run(tiny, data, SMALL, LocalContext())
    values = with_intervals("incontext", incontext.metrics(SMALL), result, 0)
    assert all(values[name].ci_low <= values[name].value <= values[name].ci_high for name in ("mIoU", "mAcc", "aAcc"))
    assert values["mIoU"].n == 12 and values["mIoU_released"].ci_low is None
    assert result.items["id"].tolist() == list(data.test.ids) and result.items["image_acc"].between(0, 1).all()


def test_sizes_are_whole_patches(tiny, data):
    result = run(tiny, data, replace(SMALL, size=70), LocalContext())
    assert "size = 70: images are resized to 64" in result.notes[1]
    assert result.metrics == run(tiny, data, SMALL, LocalContext()).metrics
    with pytest.raises(UserError, match="size = 15 is less than a patch of tiny, 16 pixels"):
        run(tiny, data, replace(SMALL, size=15), LocalContext())


def test_void_is_a_class_of_its_own_where_there_is_no_background(tiny, tmp_path):
    for part, prefix in (("training", "ADE_train"), ("validation", "ADE_val")):
        name = f"{prefix}_00000001"
        write_pair(
            tmp_path / "images" / part / f"{name}.jpg", tmp_path / "annotations" / part / f"{name}.png", halves(0, 9)
        )
    ctx = LocalContext(folder=tmp_path / "saved")
    result = run(tiny, ade20k.load(tmp_path, "ADE"), replace(SMALL, k=1), ctx)
    assert any("a class of their own" in note for note in result.notes)
    assert result.metrics["aAcc"] == 100 and result.metrics["mIoU_released"] == pytest.approx(100 / 150)
    saved = read_labels(tmp_path / "saved" / "ADE_val_00000001.png")
    assert saved.shape == (24, 32) and set(np.unique(saved)) == {8, 255}


def test_images_that_cannot_be_read(tiny, tmp_path):
    path = voc_folder(tmp_path, ("a", "b"), ("c", "d"))
    folder = path / "VOC2012"
    (folder / "JPEGImages" / "b.jpg").write_bytes(b"nothing")
    (folder / "SegmentationClass" / "d.png").write_bytes(b"nothing")
    data = voc_segmentation.load(path, "VOC2012")
    with pytest.raises(UserError, match=r"1 of 2 images of train cannot be read: b"):
        run(tiny, data, SMALL, LocalContext())
    ctx = LocalContext(skip_broken=True)
    result = run(tiny, data, SMALL, ctx)
    assert result.items["id"].tolist() == ["c"] and ctx.broken == {"train/b", "val/d"}
    Image.new("RGB", (30, 24)).save(folder / "JPEGImages" / "c.jpg")
    with pytest.raises(UserError, match=r"label map of c: 32 x 24 pixels, but its image has 30 x 24"):
        run(tiny, voc_segmentation.load(path, "VOC2012"), SMALL, ctx)


def test_nothing_labelled_is_refused(tiny, tmp_path):
    path = voc_folder(tmp_path)
    write_pair(tmp_path / "x.png", path / "VOC2012" / "SegmentationClass" / "c.png", halves(255, 255))
    with pytest.raises(UserError, match="VOC2012: no labelled pixel in its 1 test images"):
        run(tiny, voc_segmentation.load(path, "VOC2012"), SMALL, LocalContext())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"size": "0"}, "size = 0 must be at least 1"),
        ({"k": "0"}, "k = 0 must be at least 1"),
        ({"temperature": "0"}, "temperature = 0.0 must be above 0"),
        ({"memory": "-1"}, "memory = -1 is a number of patches"),
        ({"augment": "hummingbirds"}, "did you mean 'hummingbird'"),
    ],
)
def test_settings_that_make_no_sense(setting, words):
    with pytest.raises(UserError, match=words):
        resolve_config(incontext, None, setting)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["dinobench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    save(vit(), tmp_path / "tiny.pth")
    line = ["run", "--protocol", "incontext", "--data", "shapes", "--ckpt", "tiny.pth", "--heads", "1"]
    line += ["--set", "size=64", "--set", "augment=none", "--set", "k=5"]
    code, out, _ = typed(*line, "--save", "maps", "--json")
    (record,) = json.loads(out)
    assert code == 0 and record["primary"] == "mIoU" and record["profile"] == "hummingbird+augment=none+k=5+size=64"
    maps = sorted((tmp_path / "maps").rglob("*.png"))
    assert len(maps) == 12 and read_labels(maps[0]).shape == (192, 192)
    assert_one_line(*typed(*line[:-1], "k=100000"), "the memory has 384 patches only; lower k")
    assert_one_line(*typed("run", "--protocol", "incontext", "--data", "digits", "--ckpt", "tiny.pth"), "shapes")
