"""A model is given its images as it was trained on them, whoever scores it."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import pytest
import torch
from helpers.samples import INFO
from hypothesis import given
from hypothesis import strategies as st

import dinobench
from dinobench.evaluations import kept
from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD, ModelInput, input_lines, input_of, reading_of, recorded
from dinobench.models.loading import load_backbone
from dinobench.types import ComputeOptions

HALF = ModelInput((0.5, 0.5, 0.5), (0.5, 0.5, 0.25), "a test")
AS_SET = {"mean": HALF.mean, "std": HALF.std}
SMALL = {"resize": 16, "crop": 16}
PROTOCOLS = {
    "knn": ("digits", SMALL),
    "linear": ("digits", SMALL | {"epochs": 1, "blocks": (1,), "batch": 1024}),
    "logreg": ("digits", SMALL | {"c_count": 1, "max_iterations": 3}),
    "finetune": ("digits", SMALL | {"epochs": 1, "warmup_epochs": 0, "batch": 512, "randaugment": 0, "repeats": 1}),
    "attention": ("shapes", {"image_size": 32, "sweep": "none"}),
    "copydetect": ("tiles", {"image_size": 32}),
    "retrieval": ("tiles", {"image_size": 32}),
    "davis": ("shapes", {"short_side": 32, "multiple": 16}),
}


@cache
def one_block():
    backbone = load_backbone("random:vit_tiny_patch16_224")
    backbone.module.blocks = backbone.module.blocks[:1]
    return backbone


@pytest.fixture
def score(monkeypatch):
    """`score(protocol, own, **settings)`: the record, and the pixels that the patch embedding was given."""

    def scored(protocol, own, **settings):
        seen = []

        def loaded(spec, **options):
            backbone = one_block().clone()
            backbone.module.patch_embed.proj.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().cpu()))
            backbone.info = dataclasses.replace(backbone.info, input=own)
            return backbone

        monkeypatch.setattr(kept, "load_backbone", loaded)
        data, small = PROTOCOLS[protocol]
        compute = ComputeOptions(device="cpu", cache=False)
        (record,) = dinobench.run(protocol, "pixels", data, settings=small | settings, out=None, compute=compute)
        return record, [x[..., :16, :16] for x in seen]

    return scored


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_every_protocol_gives_a_model_its_own_input(score, protocol):
    """The same pixels as where the input is set by hand, and those that ImageNet's would be made of."""
    fixed = {"mean": "none", "std": "none"} if protocol == "davis" else {}
    (own, pixels), (by_hand, as_set) = score(protocol, HALF, **fixed), score(protocol, None, **AS_SET)
    assert pixels and len(pixels) == len(as_set) and all(map(torch.equal, pixels, as_set))
    assert own.metrics == by_hand.metrics
    channels = [torch.cat([x.transpose(0, 1).flatten(1) for x in pixels], dim=1)]
    as_bytes = (channels[0] * torch.tensor(HALF.std)[:, None] + torch.tensor(HALF.mean)[:, None]) * 255
    if protocol != "finetune":  # which erases boxes by noise
        torch.testing.assert_close(as_bytes, as_bytes.round(), atol=1e-3, rtol=0)
        assert as_bytes.min() >= -1e-3 and as_bytes.max() <= 255.001
    assert own.checkpoint.input == HALF and by_hand.checkpoint.input is None
    assert len({own.run_id, by_hand.run_id}) == 2
    if not fixed:
        assert not {"mean", "std"} & own.config.keys() and own.profile.count("mean") == 0
        assert by_hand.config["mean"] == HALF.mean and own.config_hash != by_hand.config_hash


def test_the_releases_normalisation_stays_and_is_said(score):
    (record, pixels), (usual, as_ever) = score("davis", HALF), score("davis", None)
    assert all(map(torch.equal, pixels, as_ever)) and record.config["std"] == (0.228, 0.224, 0.225)
    assert any("though the model takes mean 0.5,0.5,0.5, std 0.5,0.5,0.25 (a test)" in n for n in record.notes)
    assert not usual.notes and record.config_hash == usual.config_hash and record.run_id != usual.run_id


def test_models_of_imagenets_input_keep_their_names(score, capsys):
    known = ModelInput(origin="a file")
    (one, _), (other, _) = score("knn", None), score("knn", known)
    assert one.run_id == other.run_id and one.checkpoint == other.checkpoint and other.checkpoint.input is None
    assert "input of" not in capsys.readouterr().err
    score("knn", HALF)
    assert f"input of {one.checkpoint.name}: mean 0.5,0.5,0.5, std 0.5,0.5,0.25 (a test)" in capsys.readouterr().err


def test_what_is_assumed_and_what_is_told_apart():
    told = dataclasses.replace(INFO, input=HALF)
    assert input_of(INFO) == input_of(None) == input_of(object()) == ModelInput() and ModelInput().usual
    assert (ModelInput().mean, ModelInput().std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert "assumed" in str(input_of(INFO)) and input_of(told) is HALF
    assert reading_of(INFO) == reading_of(dataclasses.replace(INFO, input=ModelInput(origin="a file"))) == {}
    assert reading_of(dataclasses.replace(told, pool="mean")) == {"mean": HALF.mean, "std": HALF.std, "pool": "mean"}
    assert recorded(dataclasses.replace(INFO, input=ModelInput())) == INFO and recorded(told) == told
    other = dataclasses.replace(told, name="other")
    assert input_lines([INFO, told, other]) == [f"input of {INFO.name}, other: {HALF}"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, r"mean = 123.675,116.28,103.53: each is 0 to 1; .* divide by 255"),
        ({"std": (0.5, 0.0, 0.5)}, "std = 0.5,0,0.5: each is 0.001 to 1"),
        ({"std": (-0.5, 0.5, 0.5)}, "each is 0.001 to 1"),
        ({"mean": (math.nan, 0.5, 0.5)}, "each is 0 to 1"),
        ({"std": (0.5, 0.5)}, "std takes 3 numbers, one per RGB channel"),
    ],
)
def test_inputs_that_cannot_be(fields, words):
    with pytest.raises(ValueError, match=words):
        ModelInput(**fields)


@given(st.tuples(*[st.floats(0, 1)] * 3), st.tuples(*[st.floats(1e-3, 1)] * 3))
def test_any_input_in_range_is_one(mean, std):
    own = ModelInput(mean, std)
    assert own.usual == ((mean, std) == (IMAGENET_MEAN, IMAGENET_STD)) and str(mean[0]) in str(own)
