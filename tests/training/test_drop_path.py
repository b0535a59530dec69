from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath as TimmDropPath

from dinobench.training.drop_path import Draws, DropPath, add_drop_path


def test_drop_path_agrees_with_timm_s():
    draws = Draws()
    module = DropPath(0.3, draws, 1)
    draws.uniform = torch.tensor([[0.0, 0.2], [0.0, 0.4]])
    x = torch.ones(2, 5, 7)
    assert torch.equal(module(x), torch.stack([torch.zeros(5, 7), torch.full((5, 7), 1 / 0.7)]))
    assert torch.equal(module.eval()(x), x)
    draws.uniform = torch.rand(20000, 2)
    ours, theirs = module.train()(torch.ones(20000, 1)), TimmDropPath(0.3)(torch.ones(20000, 1))
    assert ours.mean() == pytest.approx(1, abs=0.03) and ours.max() == pytest.approx(float(theirs.max()))


@pytest.mark.parametrize(("name", "branches"), [("vit_tiny_patch16_224", 22), ("resnet18", 7), ("convnext_atto", 11)])
def test_drop_path_rates_are_those_of_timm(name, branches):
    ours = timm.create_model(name, num_classes=0)
    assert add_drop_path(ours, 0.2, Draws()) == branches
    theirs = timm.create_model(name, num_classes=0, drop_path_rate=0.2)
    expected = {n: m.drop_prob for n, m in theirs.named_modules() if isinstance(m, TimmDropPath)}
    assert {n: m.rate for n, m in ours.named_modules() if isinstance(m, DropPath)} == pytest.approx(expected)
    assert add_drop_path(torch.nn.Linear(2, 2), 0.2, Draws()) == 0
