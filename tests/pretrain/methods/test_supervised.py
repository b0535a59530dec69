"""The supervised loss by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.methods import batch, make, now


def test_supervised_is_smoothed_cross_entropy():
    method = make("supervised", label_smoothing=0.2)
    (view,), labels = batch(8, views=1)
    logits = method.student([view])[0].detach()
    targets = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    output = method([view], labels, now())
    torch.testing.assert_close(output.loss.detach(), -(targets * logits.log_softmax(1)).sum(1).mean())
    assert output.stats["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())
