"""InfoNCE within the batch, by plain loops and whatever the precision around it."""

from __future__ import annotations

import pytest
import torch

from dinobench.pretrain.methods.losses import info_nce_in_batch


def test_info_nce_in_batch_by_plain_loops():
    torch.manual_seed(0)
    q, k = torch.randn(6, 4), torch.randn(9, 4)
    loss, right = info_nce_in_batch(q, k, 0.3)
    expected, hits = 0.0, 0
    for i in range(6):
        cosines = [float(torch.dot(q[i], key) / q[i].norm() / key.norm()) / 0.3 for key in k]
        expected += torch.tensor(cosines).logsumexp(0).item() - cosines[i]
        hits += max(cosines) == cosines[i]
    assert loss.item() == pytest.approx(expected / 6, rel=1e-5) and right.item() == pytest.approx(hits / 6)


def test_info_nce_is_float32_under_autocast():
    q, k = torch.randn(4, 8), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce_in_batch(q, k, 0.1)[0]
    assert loss.dtype == torch.float32 and torch.equal(loss, info_nce_in_batch(q, k, 0.1)[0])
