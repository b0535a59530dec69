from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from dinobench.distributed import sum_gradients
from dinobench.models.loading import load_backbone
from dinobench.training.mixup import in_pairs, shard_in_pairs
from dinobench.training.optim import Classifier, finetune_parameter_groups
from dinobench.training.randomness import own_randomness
from dinobench.training.sampler import RepeatedOrder


def grouped(groups, names):
    """{parameter name: (lr_scale, weight decay)}"""
    return {names[id(p)]: (g.get("lr_scale", 1.0), g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "resnet18", "convnext_atto"])
def test_parameter_groups_are_those_of_timm_s_model_with_its_own_head(name):
    theirs = timm.create_model(name, num_classes=7)
    model = Classifier(load_backbone(f"random:{name}"), 7, 0.02, seed=0)
    names = {id(p): n for n, p in model.module.named_parameters()}
    names |= {id(p): f"head.{n}" for n, p in model.head.named_parameters()}
    exempt = {"pos_embed", "cls_token", "reg_token"}
    for decay in (1.0, 0.7):
        ours = grouped(finetune_parameter_groups(model, 0.05, decay), names)
        expected = (
            param_groups_weight_decay(theirs, 0.05, no_weight_decay_list=exempt)
            if decay == 1
            else param_groups_layer_decay(theirs, 0.05, no_weight_decay_list=exempt, layer_decay=decay)
        )
        found = grouped(expected, {id(p): n for n, p in theirs.named_parameters()})
        found = {n.replace("fc.", "head.") if n.startswith("fc.") else n: g for n, g in found.items()}
        found = {n.replace("head.fc.", "head."): g for n, g in found.items()}
        assert ours == {n: pytest.approx(g) for n, g in found.items()}


def test_head_is_a_truncated_normal_of_the_seed():
    weights = [Classifier(load_backbone("pixels:8"), 50, 0.5, seed).head.weight.detach() for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].abs().max() <= 1
    assert float(weights[0].std()) == pytest.approx(0.44, abs=0.01)  # 0.88 of the uncut normal's


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 60), batch=st.integers(1, 70), repeats=st.integers(1, 4), epoch=st.integers(0, 3))
def test_order_has_full_batches_of_repeated_images(n, batch, repeats, epoch):
    order = RepeatedOrder(n, batch, seed=3, repeats=repeats)
    steps = [order(epoch, s) for s in range(order.steps_per_epoch)]
    assert all(len(images) == min(batch, n) for images, _ in steps)
    images, views = (np.concatenate(part) for part in zip(*steps, strict=True))
    assert n - len(images) < batch and min(images) >= 0 and max(images) < n
    assert len(set(zip(images, views, strict=True))) == len(images)  # no view twice
    assert np.unique(images, return_counts=True)[1].max() <= repeats
    assert set(views) <= set(range(epoch * repeats, (epoch + 1) * repeats))  # nor in another epoch


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 50), processes=st.integers(1, 6))
def test_pairs_stay_together_on_any_number_of_processes(n, processes):
    order = in_pairs(n)
    assert sorted(order) == list(range(n))
    assert all(a + b == n - 1 for a, b in zip(order[0::2], order[1::2], strict=False))

    def share(rank):
        part = lambda m: slice(m * rank // processes, m * (rank + 1) // processes)  # noqa: E731
        return shard_in_pairs(part, n)

    parts = [share(rank) for rank in range(processes)]
    assert np.concatenate([np.arange(n)[p] for p in parts]).tolist() == list(range(n))
    assert all(p.start % 2 == 0 or p.start == n for p in parts)


def test_sums_over_processes(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model[0].weight.grad = torch.ones(2, 2)
    model[1].running_mean.fill_(3.0)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.mul_(2))  # another process just alike
    totals = sum_gradients(model, torch.tensor([1.5, 4.0]), processes=2)
    assert totals.tolist() == [3.0, 8.0] and model[0].weight.grad.unique().tolist() == [2.0]
    assert model[0].bias.grad.unique().tolist() == [0.0] and model[1].running_mean.tolist() == [3.0, 3.0]
    assert sum_gradients(model, totals, processes=1) is totals


def test_own_randomness_leaves_no_trace():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    drawn = []
    for numbers in ((1, 2), (1, 2), (2, 1)):
        with own_randomness(cpu, *numbers):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.rand(3), expected)
