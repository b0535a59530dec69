"""BYOL, SimCLR, MoCo v2 and v3, the supervised baseline, distillation: what each must keep to."""

from __future__ import annotations

import dataclasses
import importlib
from typing import get_type_hints

import numpy as np
import pytest
import torch
from helpers.forked import two_processes
from helpers.methods import CASES, SETTINGS, VIEWS, batch, convnet, fit, make, now, together, trained, vit
from torch import nn

from dinobench.config import parse, plain
from dinobench.pretrain.method import Method, MethodConfig
from dinobench.registry import available

WITH_TEACHER = ("byol", "mocov2", "mocov3")


@pytest.mark.parametrize("name", SETTINGS)
def test_is_provided_and_documented(name):
    kind = importlib.import_module(f"dinobench.pretrain.methods.{name}").METHOD
    assert (
        issubclass(kind, Method) and kind.name == name and kind.summary and issubclass(kind.config_type, MethodConfig)
    )
    assert [e.value for e in available("dinobench.methods").get(name, ())] in (
        [],
        [f"dinobench.pretrain.methods.{name}"],
    )
    hints = get_type_hints(kind.config_type)
    for f in dataclasses.fields(kind.config_type):
        assert f.metadata["doc"].rstrip(".").strip(), f.name
        assert parse(plain(f.default), hints[f.name], f.name) == f.default  # what --set can say


@pytest.mark.parametrize("name", SETTINGS)
def test_views(name):
    method = make(name)
    views = method.views(method.config, 96)
    assert sum(v.count for v in views) == VIEWS[name] and {v.size for v in views} == {96}
    if name in ("byol", "mocov3"):
        assert [(v.blur_p, v.solarize_p) for v in views] == [(1.0, 0.0), (0.1, 0.2)]
    if name in ("supervised", "distill"):
        assert (views[0].jitter_p, views[0].grayscale_p, views[0].blur_p, views[0].flip_p) == (0, 0, 0, 0.5)
    else:
        assert {(v.jitter_p, v.grayscale_p) for v in views} == {(0.8, 0.2)}
    assert views[0].scale[0] == method.config.crop_min


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("backbone", [vit, convnet])
def test_outputs_and_gradients(name, backbone):
    method = make(name, backbone)
    views, labels = batch(8, views=VIEWS[name])
    output = method(views, labels if method.labels else None, now())
    output.loss.backward()
    assert output.loss.ndim == 0 and output.loss.requires_grad
    assert all(s.ndim == 0 and not s.requires_grad for s in output.stats.values())
    for features in output.features.values():
        assert features.shape[1] == 64 and len(features) in (8, 16) and not features.requires_grad
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)
    trained = {id(p) for p in method.student.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in method.parameters() if id(p) not in trained)


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_falls(name):
    losses = fit(make(name), 30)
    start = 6 if name == "mocov2" else 0  # until its queue holds keys, which are harder to tell apart than noise
    assert np.mean(losses[-3:]) < np.mean(losses[start : start + 3]) - 0.2, losses


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_teacher_is_the_students_moving_average(name):
    method = make(name)
    assert {n for n, _ in method.teacher.named_parameters()} <= {n for n, _ in method.student.named_parameters()}
    before = {n: p.clone() for n, p in method.teacher.named_parameters()}
    for p in method.student.parameters():
        nn.init.normal_(p)
    if name == "mocov2":
        method._waiting.append(torch.ones(1, 16))
    at = 49 if name == "mocov3" else 50  # whose momentum is that of the step after
    method.after_step(now(at))
    momentum = {"byol": 1 - 0.004 / 2, "mocov2": 0.9, "mocov3": 1 - 0.01 / 2}[name]  # half-way down the cosine
    student = dict(method.student.named_parameters())
    for n, p in method.teacher.named_parameters():
        torch.testing.assert_close(p, momentum * before[n] + (1 - momentum) * student[n])
    if name != "mocov2":
        assert method.logged(now(at))["momentum"] == pytest.approx(momentum)
        assert method.logged(now(0))["momentum"] == pytest.approx(method.config.momentum, abs=1e-5)


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_teacher_is_without_stochastic_depth(name):
    method = make(name, drop_path=0.5)
    assert "DropPath" in str(method.student.backbone) and "DropPath" not in str(method.teacher.backbone)


# Several processes


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    two_processes(together, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, *ranks in zip(CASES, *results, strict=True):
        expected = trained(*case)
        for result in ranks:
            assert list(result[2]) == list(expected[2])
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=5e-5)
