"""Copy detection: the reference program's scores end to end, the layout's matching, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.copydays import folder, picture
from helpers.paths import GOLDEN
from helpers.weights import vit

from dinobench import load_backbone
from dinobench.context import LocalContext
from dinobench.data.embedded import tiles
from dinobench.data.layouts import copydays
from dinobench.errors import UserError
from dinobench.features.extraction import cut_to_multiple
from dinobench.protocols import copydetect

DATA = os.environ.get("DINOBENCH_TEST_DATA")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(vit(width=64, depth=2), path)
    return load_backbone(path)


class Originals:
    def __init__(self, ids):
        self.ids = ids

    def __len__(self):
        return len(self.ids)


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="DINOBENCH_TEST_DATA is not set")
def test_golden_end_to_end(tmp_path, monkeypatch):
    golden = json.loads((GOLDEN / "copydays.json").read_text())
    torch.save(vit(width=192, depth=12, patch=16, image=224), tmp_path / "vit.pth")
    backbone = load_backbone(tmp_path / "vit.pth", heads=3)
    data = copydays.load(Path(DATA) / "copydays_like", "copydays_like")
    seen: dict[str, np.ndarray] = {}
    extract = copydetect.descriptors

    def once(backbone, split, config, ctx):  # the three settings differ in the database only
        if split.name not in seen:
            seen[split.name] = extract(backbone, split, config, ctx)
        return seen[split.name]

    monkeypatch.setattr(copydetect, "descriptors", once)
    for setting, distractors, whitening in (
        ("plain", "none", "none"),
        ("distractors", "auto", "none"),
        ("whitened", "auto", "auto"),
    ):
        config = copydetect.Config(distractors=distractors, whitening=whitening)
        result = copydetect.run(backbone, data, config, LocalContext())
        for block, expected in golden[setting].items():
            score = result.metrics["mAP_" + block.replace("/", "")] / 100
            assert score == pytest.approx(expected, abs=0.002), f"{setting} {block}"
        assert len(result.items) == 157 * 3 + 229
        low, high = result.intervals["muAP"]
        assert low <= result.metrics["muAP"] <= high


def test_scores_of_known_ranks():
    """Similarities laid by hand: the second copy's original comes third, the fourth's beyond the ranks that count."""
    database = np.eye(6, dtype=np.float32)
    queries = np.zeros((4, 6), dtype=np.float32)
    queries[0, 0] = 1
    queries[1, [1, 2, 3]] = 0.1, 0.9, 0.5
    queries[2, 2] = 1
    queries[3] = [0.5, 0.4, 0.3, 0.01, 0.2, 0.1]
    block = SimpleNamespace(name="strong", ids=list("abcd"), labels=np.arange(4))
    data = SimpleNamespace(blocks=(block,), originals=Originals([f"o{i}" for i in range(6)]), distractors=None)
    config = copydetect.Config(ranks=5)
    result = copydetect.score(data, {"strong": queries, "original": database}, database, config, LocalContext(), [])
    strong = result.items[result.items["block"] == "strong"]
    assert strong["mAP_strong"].tolist() == [1.0, pytest.approx(1 / 6), 1.0, 0.0]
    assert strong["rank"].tolist()[:3] == [0, 2, 0] and np.isnan(strong["rank"].iloc[3])
    assert result.metrics["mAP_original"] == 100
    assert result.metrics["mAP_strong"] == pytest.approx(100 * (2 + 1 / 6) / 4)
    assert next(iter(result.metrics)) == "mAP_strong"


def test_copies_of_copies_score_perfectly(tiny, tmp_path):
    data = copydays.load(folder(tmp_path / "set"), "set")
    result = copydetect.run(tiny, data, copydetect.Config(image_size=64, ranks=6), LocalContext())
    assert result.metrics["mAP_original"] == pytest.approx(100)
    assert set(result.metrics) == {"mAP_strong", "mAP_jpegqual3", "mAP_original", "muAP"}
    assert result.items["id"].is_unique and len(result.items) == 18
    for metric in ("mAP_strong", "mAP_jpegqual3", "mAP_original"):
        assert 100 * result.items[metric].mean() == pytest.approx(result.metrics[metric])


def test_blocks_as_they_are(tiny, tmp_path):
    """Without strong copies the first block leads; crops go by their levels' size, not by their names' order."""
    root = folder(tmp_path / "set", blocks=("crops/5", "crops/10", "jpegqual/3"))
    data = copydays.load(root, "set")
    assert [b.name for b in data.blocks] == ["jpegqual/3", "crops/5", "crops/10"]
    result = copydetect.run(tiny, data, copydetect.Config(image_size=32, ranks=6), LocalContext())
    assert next(iter(result.metrics)) == "mAP_jpegqual3"


def test_distractors_and_whitening_from_elsewhere(tiny, tmp_path):
    data = copydays.load(folder(tmp_path / "set"), "set")
    for side in ("far", "sample"):
        (tmp_path / side / "deep").mkdir(parents=True)
        for i in range(8):
            picture(50 + i).save(tmp_path / side / "deep" / f"{side}{i}.png")
    config = copydetect.Config(image_size=32, ranks=10, distractors=str(tmp_path / "far"))
    chosen = copydetect.select_data(data, config)
    assert len(chosen.distractors) == 8 and chosen.fingerprint != data.fingerprint and chosen.whitening is None
    assert copydetect.select_data(data, replace(config, distractors="none")) is data
    plain = copydetect.run(tiny, data, config, LocalContext())
    white = copydetect.run(tiny, data, replace(config, whitening=str(tmp_path / "sample")), LocalContext())
    assert plain.items["similarity"].tolist() != white.items["similarity"].tolist()
    with pytest.raises(UserError, match="no such folder"):
        copydetect.select_data(data, replace(config, whitening=str(tmp_path / "nowhere")))


def test_backbones_of_other_kinds(tmp_path):
    data = copydays.load(folder(tmp_path / "set"), "set")
    config = copydetect.Config(image_size=40, ranks=6)
    resnet = load_backbone("random:resnet18")
    rows, _ = copydetect.descriptors(resnet, data.originals, config, LocalContext())
    assert rows.shape == (6, 2 * 512)
    pixels = torch.stack([torch.from_numpy(config.transform()(data.originals.load(i))) for i in range(6)])
    [(pooled, maps)] = resnet.layers(config.transform().normalise(pixels))
    expected = torch.cat([pooled, maps.clamp(min=1e-6).pow(4).mean(1).pow(0.25)], dim=1)
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-4, atol=1e-5)
    flat = copydetect.run(load_backbone("pixels"), data, config, LocalContext())
    assert "no patch tokens" in flat.notes[0] and flat.metrics["mAP_original"] == pytest.approx(100)


def test_sizes_that_patches_do_not_divide(tiny, tmp_path):
    """Cut to the multiple: the reference program's strided convolution never sees the rest."""
    data = copydays.load(folder(tmp_path / "set"), "set")
    rows, _ = copydetect.descriptors(tiny, data.originals, copydetect.Config(image_size=40), LocalContext())
    assert rows.shape == (6, 128) and np.isfinite(rows).all()
    assert cut_to_multiple(torch.zeros(1, 3, 40, 47), 16).shape == (1, 3, 32, 32)


def test_no_copies_at_all(tmp_path):
    with pytest.raises(UserError, match="has original/ but no copies"):
        copydays.load(folder(tmp_path / "set", blocks=()), "set")


def test_too_few_images(tiny, tmp_path):
    data = copydays.load(folder(tmp_path / "set"), "set")
    with pytest.raises(UserError, match=r"6 images to search .* fewer than the 20 ranks .* --set ranks=6"):
        copydetect.run(tiny, data, copydetect.Config(), LocalContext())


def test_unreadable_images_are_named(tiny, tmp_path):
    root = folder(tmp_path / "set")
    for i in (1, 4):
        (root / "strong" / f"{i:04d}01.jpg").write_bytes(b"\xff\xd8 nothing")
    data = copydays.load(root, "set")
    with pytest.raises(
        UserError,
        match=r"2 of 6 images of strong cannot be read: strong/000101.jpg, strong/000401.jpg .not an im.*; repair",
    ):
        copydetect.run(tiny, data, copydetect.Config(image_size=32, ranks=6), LocalContext())


def test_unreadable_images_are_left_out_with_the_copies_of_such_originals(tiny, tmp_path):
    config = copydetect.Config(image_size=32, ranks=4)
    damaged, without = folder(tmp_path / "damaged"), folder(tmp_path / "without")
    for name in ("original/000200.jpg", "strong/000401.jpg"):
        (damaged / name).write_bytes(b"\xff\xd8 nothing")
    for path in (*without.rglob("0002*"), without / "strong" / "000401.jpg"):
        path.unlink()
    ctx = LocalContext(skip_broken=True)
    left = copydetect.run(tiny, copydays.load(damaged, "set"), config, ctx)
    assert ctx.broken == {"original/original/000200.jpg", "strong/strong/000401.jpg"}
    whole = copydetect.run(tiny, copydays.load(without, "set"), config, LocalContext())
    assert left.metrics == pytest.approx(whole.metrics)
    assert left.items["original"].tolist() == whole.items["original"].tolist()


def test_settings_that_make_no_sense():
    for wrong in ({"ranks": 0}, {"gem_power": 0.0}, {"image_size": 0}, {"distractors": ""}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            copydetect.Config(**wrong)


def test_embedded_set_runs(tiny):
    data = tiles.copies("tiles")
    again = tiles.copies("tiles")
    assert data.fingerprint == again.fingerprint and len(data.originals) >= 20
    result = copydetect.run(tiny, data, copydetect.Config(image_size=64), LocalContext())
    assert result.metrics["mAP_original"] == pytest.approx(100)
    assert result.metrics["mAP_jpegqual3"] > result.metrics["mAP_strong"]
