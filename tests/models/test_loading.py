from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import HF, VIT, X, dino_full, lightning
from helpers.weights import prefixed, save, shifted
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.errors import UserError
from dinobench.models.loading import default_name, inspect_checkpoint, load_backbone


def test_key_chooses_among_several(tmp_path):
    path = save(dino_full(), tmp_path / "full.pth")
    teacher, student = load_backbone(path), load_backbone(path, key="student")
    assert (teacher.info.key, student.info.key) == ("teacher.backbone", "student.module.backbone")
    assert teacher.info.weights_digest != student.info.weights_digest
    with pytest.raises(
        UserError, match=r"full\.pth: no backbone under --key ema; there is: teacher\.backbone, student"
    ):
        load_backbone(path, key="ema")
    assert inspect_checkpoint(path).keys == ("teacher.backbone", "student.module.backbone")
    mixed = save(
        lightning("student_backbone.") | {"m": prefixed(shifted(VIT), "teacher_backbone.")}, tmp_path / "l.ckpt"
    )
    assert load_backbone(mixed).info.key == "m.teacher_backbone"
    assert load_backbone(mixed, key="student").info.key == "state_dict.student_backbone"


def test_incomplete_files_are_refused_and_partial_loading_is_recorded(tmp_path):
    broken = {n: t for n, t in VIT.items() if n != "blocks.1.mlp.fc2.weight"} | {
        "blocks.0.adapter.weight": torch.ones(2)
    }
    path = save(broken, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        load_backbone(path)
    for part in (
        "x.pth",
        "1 backbone tensors missing (blocks.1.mlp.fc2.weight)",
        "left over (blocks.0.adapter.weight)",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    state = torch.get_rng_state()
    first, again, other = (load_backbone(path, allow_partial=True, seed=s) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first.info.missing == ("blocks.1.mlp.fc2.weight",)
    assert first.info.unexpected == ("blocks.0.adapter.weight",)
    assert torch.equal(first.features(X), again.features(X))
    assert not torch.equal(first.features(X), other.features(X))
    seen = inspect_checkpoint(path)
    assert seen.missing == first.info.missing and seen.unexpected == first.info.unexpected
    assert len(seen.matched) == len(VIT) - 1


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(VIT)))
def test_any_missing_tensor_refuses(tmp_path_factory, name):
    path = save({n: t for n, t in VIT.items() if n != name}, tmp_path_factory.mktemp("m") / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth"):
        load_backbone(path)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_other_shape_or_kind_refuses(tmp_path_factory, data):
    content, name = data.draw(st.sampled_from([(VIT, n) for n in VIT] + [(HF, n) for n in HF]))
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 17, 64]), max_size=4))
    integers = data.draw(st.booleans())
    if not integers and tuple(shape) == content[name].shape:
        return
    other = torch.zeros(content[name].shape if integers else shape, dtype=torch.int8 if integers else torch.float32)
    path = save(content | {name: other}, tmp_path_factory.mktemp("m") / "x.pth")
    with pytest.raises(UserError) as error:
        load_backbone(path)
    assert "\n" not in str(error.value)


def test_wrong_shape_names_the_tensor(tmp_path):
    path = save(VIT | {"blocks.1.mlp.fc1.weight": torch.ones(3, 64)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1\.weight \(3, 64\) instead of \(256, 64\)"):
        load_backbone(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_named(tmp_path, bad):
    content = dino_full()
    content["teacher"]["backbone.norm.bias"] = torch.full((64,), bad)
    path = save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: NaN or infinity in 1 tensors \(teacher\.backbone\.norm\.bias\)"):
        load_backbone(path)
    assert inspect_checkpoint(path).non_finite == ("norm.bias",)


def test_names_say_something(tmp_path):
    assert default_name(Path("/runs/dino_s/checkpoint.pth")) == "dino_s/checkpoint"
    assert default_name(Path("/runs/dino_s/epoch=3-step=20.ckpt")) == "dino_s/epoch=3-step=20"
    assert default_name(Path("/runs/a/checkpoint0040.pth.tar")) == "a/checkpoint0040"
    assert default_name(Path("/runs/dino_s16.pth")) == "dino_s16"
    assert load_backbone(save(VIT, tmp_path / "x.pth"), name="mine").info.name == "mine"
