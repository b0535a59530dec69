"""SimCLR's loss by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.methods import batch, make, now
from torch import nn

from dinobench.pretrain.methods.simclr import nt_xent


def test_the_projector_is_the_release_s():
    """google-research/simclr, model_util.py: batch norm after every layer, the last one's with a scale and no shift."""
    head = make("simclr").student.head
    assert [type(m).__name__ for m in head] == ["Linear", "SyncedBatchNorm", "ReLU", "Linear", "SyncedBatchNorm"]
    assert all(m.bias is None for m in head if isinstance(m, nn.Linear))
    assert head[1].bias is not None and head[4].weight is not None and head[4].bias is None
    views, _ = batch(8)
    projected = head(make("simclr").student.backbone(torch.cat(views)))
    torch.testing.assert_close(projected.mean(0), torch.zeros(16), rtol=0, atol=1e-5)
    make("simclr")(views, None, now()).loss.backward()
    without = make("simclr", projector_norm=False).student.head
    assert [type(m).__name__ for m in without] == ["Linear", "SyncedBatchNorm", "ReLU", "Linear"]


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
