"""BYOL, SimCLR, MoCo v2 and v3, the supervised baseline, distillation: losses by hand, and what each must keep to."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import get_type_hints

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from helpers.methods import CASES, SETTINGS, VIEWS, batch, convnet, fit, make, now, together, trained, vit
from torch import nn

from dinobench.config import parse, plain
from dinobench.pretrain.method import Method, MethodConfig
from dinobench.pretrain.methods.byol import loss as byol_loss
from dinobench.pretrain.methods.mocov2 import info_nce_with_queue
from dinobench.pretrain.methods.simclr import nt_xent
from dinobench.registry import available

TAUGHT = ("byol", "mocov2", "mocov3")


# Losses


def test_byol_loss_by_hand():
    predicted, target = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert byol_loss(predicted, target).item() == pytest.approx(((2 - 2 * 24 / 25) + (2 - 0)) / 2)
    unit = [F.normalize(t, dim=1) for t in (predicted, target)]
    assert byol_loss(predicted, target).item() == pytest.approx((unit[0] - unit[1]).square().sum(1).mean().item())


def test_nt_xent_by_plain_loops():
    rng = np.random.default_rng(0)
    z, temperature, images = rng.normal(size=(10, 6)), 0.3, 5
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    total, hits = 0.0, 0
    for i in range(10):
        others = [k for k in range(10) if k != i]
        partner = i + images if i < images else i - images
        similar = {k: float(unit[i] @ unit[k]) / temperature for k in others}
        total += -similar[partner] + math.log(sum(math.exp(s) for s in similar.values()))
        hits += max(similar, key=lambda k: similar[k]) == partner
    loss, right = nt_xent(torch.from_numpy(z), temperature)
    assert loss.item() == pytest.approx(total / 10, rel=1e-6) and right.item() == pytest.approx(hits / 10)


def test_nt_xent_as_cross_entropy_without_the_diagonal():
    """The other usual form: the diagonal taken out of the matrix, targets moved accordingly."""
    z = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    similarity = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / 0.1
    without = similarity[~torch.eye(12, dtype=torch.bool)].view(12, 11)
    targets = torch.cat([torch.arange(6) + 5, torch.arange(6)])
    torch.testing.assert_close(nt_xent(z, 0.1)[0], F.cross_entropy(without, targets))


def test_nt_xent_of_aligned_views_is_lower():
    z = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    aligned, crossed = torch.cat([z, z]), torch.cat([z, z.roll(1, 0)])
    assert nt_xent(aligned, 0.1)[0] < nt_xent(crossed, 0.1)[0]
    assert nt_xent(aligned, 0.1)[1] == 1 and nt_xent(crossed, 0.1)[1] == 0


def test_info_nce_by_plain_loops():
    q, k, queue = (F.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(n)), dim=1) for n in (3, 4, 7))
    k = k[:3]
    total, hits = 0.0, 0
    for i in range(3):
        positive = float(q[i] @ k[i]) / 0.2
        negatives = [float(q[i] @ old) / 0.2 for old in queue]
        total += -positive + math.log(sum(math.exp(s) for s in [positive, *negatives]))
        hits += positive > max(negatives)
    loss, right = info_nce_with_queue(q, k, queue, 0.2)
    assert loss.item() == pytest.approx(total / 3, rel=1e-5) and right.item() == pytest.approx(hits / 3)


def test_byol_predicts_the_other_view():
    method = make("byol")
    views, _ = batch(8)
    output = method(views, None, now())
    with torch.no_grad():
        predicted = [method.student.predictor(method.student([v])[0]) for v in views]
        targets = [method.teacher([v])[0] for v in views]
        expected = byol_loss(predicted[0], targets[1]) + byol_loss(predicted[1], targets[0])
    torch.testing.assert_close(output.loss.detach(), expected)
    assert output.stats["cosine"].item() == pytest.approx(1 - expected.item() / 4)


def test_mocov3_is_symmetric_and_scaled():
    """2 T times the cross-entropies of both directions, as in algorithm 1 of the paper."""
    method = make("mocov3", temperature=0.3)
    views, _ = batch(8)
    output = method(views, None, now())
    with torch.no_grad():
        q = [F.normalize(method.student.predictor(method.student([v])[0]), dim=1) for v in views]
        k = [F.normalize(method.teacher([v])[0], dim=1) for v in views]
        each = [F.cross_entropy(q[i] @ k[1 - i].T / 0.3, torch.arange(8)) for i in (0, 1)]
    torch.testing.assert_close(output.loss.detach(), 2 * 0.3 * (each[0] + each[1]))


def test_supervised_is_smoothed_cross_entropy():
    method = make("supervised", label_smoothing=0.2)
    (view,), labels = batch(8, views=1)
    logits = method.student([view])[0].detach()
    targets = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    output = method([view], labels, now())
    torch.testing.assert_close(output.loss.detach(), -(targets * logits.log_softmax(1)).sum(1).mean())
    assert output.stats["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())


# Networks


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
def test_outcomes_and_gradients(name, backbone):
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


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_is_the_students_moving_average(name):
    method = make(name)
    assert {n for n, _ in method.teacher.named_parameters()} <= {n for n, _ in method.student.named_parameters()}
    before = {n: p.clone() for n, p in method.teacher.named_parameters()}
    for p in method.student.parameters():
        nn.init.normal_(p)
    if name == "mocov2":
        method._waiting.append(torch.ones(1, 16))
    method.after_step(now(50))
    momentum = {"byol": 1 - 0.004 / 2, "mocov2": 0.9, "mocov3": 1 - 0.01 / 2}[name]  # half-way down the cosine
    student = dict(method.student.named_parameters())
    for n, p in method.teacher.named_parameters():
        torch.testing.assert_close(p, momentum * before[n] + (1 - momentum) * student[n])
    if name != "mocov2":
        assert method.logged(now(50))["momentum"] == pytest.approx(momentum)
        assert method.logged(now(0))["momentum"] == method.config.momentum


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_is_without_stochastic_depth(name):
    method = make(name, drop_path=0.5)
    assert "DropPath" in str(method.student.backbone) and "DropPath" not in str(method.teacher.backbone)


def test_mocov3_leaves_the_patch_projection_alone():
    method = make("mocov3")
    projection = method.student.backbone.patch_embed.proj
    bound = math.sqrt(6 / (3 * 8 * 8 + 64))
    assert 0.95 * bound < projection.weight.abs().max() <= bound and not projection.bias.any()
    before = projection.weight.clone()
    fit(method, 2, n=8)
    assert torch.equal(projection.weight, before) and not projection.weight.requires_grad
    assert torch.equal(method.teacher.backbone.patch_embed.proj.weight, before)
    learning = make("mocov3", freeze_patches=False).student.backbone.patch_embed.proj
    assert learning.weight.requires_grad


def test_mocov3_heads_of_vits_and_resnets():
    linear = {b: sum(isinstance(m, nn.Linear) for m in make("mocov3", b).student.head) for b in (vit, convnet)}
    assert linear == {vit: 3, convnet: 2}


# MoCo v2's queue


def keys(first, count):
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(-1, 16)


def test_queue_is_first_in_first_out():
    method = make("mocov2", queue=10)
    method.queue.zero_()
    for first in range(1, 9, 4):
        method.enqueue(keys(first, 4))
    assert method.queue[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0] and method.pointer == 8
    method.enqueue(keys(9, 4))  # wraps around: 9 and 10 at the end, 11 and 12 over the oldest
    assert method.queue[:, 0].tolist() == [11, 12, 3, 4, 5, 6, 7, 8, 9, 10] and method.pointer == 2
    method.enqueue(keys(13, 10))
    assert sorted(method.queue[:, 0].tolist()) == list(range(13, 23)) and method.pointer == 2
    method.enqueue(keys(100, 23))  # more than it holds: the last ones
    assert sorted(method.queue[:, 0].tolist()) == list(range(113, 123)) and method.pointer == 5
    method.enqueue(keys(200, 1))
    assert 113 not in method.queue[:, 0] and 200 in method.queue[:, 0]  # still the oldest that goes


def test_queue_takes_the_keys_of_all_parts_after_the_step():
    method = make("mocov2", queue=16)
    views, _ = batch(8)
    before = method.queue.clone()
    for part in (slice(0, 4), slice(4, 8)):
        method([v[part] for v in views], None, now())
        assert torch.equal(method.queue, before)
    expected = F.normalize(method.teacher(views[1:])[0], dim=1)
    method.after_step(now())
    torch.testing.assert_close(method.queue[:8], expected)
    assert torch.equal(method.queue[8:], before[8:]) and method.pointer == 8 and not method._waiting
    assert {"queue", "pointer"} <= set(method.state_dict())
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(16))


# Several processes


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    mp.spawn(together, (tmp_path,), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, *ranks in zip(CASES, *found, strict=True):
        expected = trained(*case)
        for result in ranks:
            assert list(result[2]) == list(expected[2])
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
