"""BYOL's loss by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.methods import batch, make, now

from dinobench.pretrain.methods.byol import loss as byol_loss


def test_byol_loss_by_hand():
    predicted, target = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert byol_loss(predicted, target).item() == pytest.approx(((2 - 2 * 24 / 25) + (2 - 0)) / 2)
    unit = [F.normalize(t, dim=1) for t in (predicted, target)]
    assert byol_loss(predicted, target).item() == pytest.approx((unit[0] - unit[1]).square().sum(1).mean().item())


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
