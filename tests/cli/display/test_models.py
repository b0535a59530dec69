from __future__ import annotations

import re

import pytest
import timm
from helpers.typed import assert_one_line

from dinobench.cli.display.models import _fits
from dinobench.compare.published import FIGURES, RELEASES
from dinobench.models.sources.references import FORMS, kind


def test_models_that_a_pattern_names(command, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = tmp_path / "hub" / "models--timm--vit_small_patch16_224.dino" / "snapshots" / "0" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    code, out, err = command("list", "models", "dino*16")
    assert code == 2 and not out
    code, out, err = command("list", "models", "*patch16_224.dino")
    assert code == 0 and "from memory" in err
    small, base = out.splitlines()[1:][::-1]
    assert re.match(r"timm:vit_small_patch16_224\.dino +dino +224 +yes +ImageNet-1k knn 74\.5, linear 77\.0", small)
    assert re.match(r"timm:vit_base_patch16_224\.dino +dino +224 +ImageNet-1k knn 76\.1, linear 78\.2", base)
    assert "finetune 81.5?; DAVIS 2017 val davis 61.8; VOC 2012 val attention 45.9?" in small


def test_all_models_after_all_forms(command, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--us--ours" / "snapshots" / "0").mkdir(parents=True)
    (tmp_path / "hub" / "models--us--ours" / "snapshots" / "0" / "pytorch_model.bin").touch()
    code, out, _ = command("list", "models")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(FORMS)]] == list(FORMS)
    listed = {line.split()[0] for line in lines if line}
    assert listed >= {f"timm:{name}" for name in timm.list_models(pretrained=True)} | set(RELEASES) | {"hf:us/ours"}
    assert all(kind(name) for name in listed - set(FORMS) - {"reference"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("models", "vit_small_patch16_225.dino"), "did you mean 'vit_small_patch16_224.dino'?"),
        (("models", "%%%"), "`dinobench list models` shows all"),
        (("knn", "x"), "list knn takes no pattern"),
        (("model",), "did you mean 'models'?"),
    ],
)
def test_what_is_not_there(command, arguments, words):
    assert_one_line(*command("list", *arguments), words)


def test_random_models_are_listed_where_asked_for(command):
    code, out, _ = command("list", "models", "random:shufflenet*")
    assert code == 0 and "random:shufflenet_v2_x0_5" in out and "timm:" not in out


def test_a_pattern_is_of_the_whole_or_a_part():
    assert _fits("timm:resnet18.a1_in1k", "ResNet18") and _fits("timm:resnet18.a1_in1k", "resnet*_in1k")
    assert not _fits("timm:resnet18.a1_in1k", "resnet*_in2?k")


def test_every_release_has_a_figure_and_is_timms_where_it_says_so():
    models = {f.model for f in FIGURES}
    assert set(RELEASES.values()) <= models
    known = {f"timm:{name}" for name in timm.list_models(pretrained=True)}
    assert {r for r in RELEASES if r.startswith("timm:")} <= known
