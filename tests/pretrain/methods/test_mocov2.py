"""MoCo v2: its loss by plain loops, and its queue."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.methods import batch, make, now

from dinobench.pretrain.methods.mocov2 import info_nce_with_queue


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
