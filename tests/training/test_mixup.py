from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import mixup as timm_mixup

from dinobench.training.mixup import Mix, Mixing, cut_box, in_pairs, shard_in_pairs


@pytest.mark.parametrize("cutmix", [False, True])
def test_mixing_is_timm_s(monkeypatch, cutmix):
    x, labels = torch.rand(8, 3, 12, 20), torch.arange(8) % 5
    theirs = timm_mixup.Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=5)
    box = cut_box(12, 20, 0.4, 2, 18)
    lam = 1 - (box[1] - box[0]) * (box[3] - box[2]) / 240 if cutmix else 0.4
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (0.4, cutmix))
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", lambda *a, **k: (box, lam))
    ours = Mix(lam, box if cutmix else None)
    pairs = torch.from_numpy(in_pairs(8))
    mixed, targets = ours.images(x[pairs]), ours.targets(labels[pairs], 5, 0.1)
    expected, expected_targets = theirs(x.clone(), labels)
    torch.testing.assert_close(mixed, expected[pairs])
    torch.testing.assert_close(targets, expected_targets[pairs])


def test_cutmix_boxes_are_timm_s():
    for seed in range(50):
        lam = np.random.default_rng(seed).random()
        np.random.seed(seed)
        row, column = np.random.randint(0, 13), np.random.randint(0, 40)
        np.random.seed(seed)
        assert cut_box(13, 40, lam, row, column) == tuple(timm_mixup.rand_bbox((3, 13, 40), lam))


def test_mixes_are_drawn_as_asked():
    draws = [Mixing().draw(32, 32, np.random.default_rng(i)) for i in range(1000)]
    assert np.mean([m.box is not None for m in draws]) == pytest.approx(0.5, abs=0.05)
    assert all(m.box is None for m in (Mixing(0.8, 0).draw(32, 32, np.random.default_rng(i)) for i in range(50)))
    assert all(m.box for m in (Mixing(0, 1).draw(32, 32, np.random.default_rng(i)) for i in range(50)))
    assert Mixing(0, 0).draw(32, 32, np.random.default_rng(0)) == Mix()
    x = torch.rand(3, 3, 4, 4)
    assert Mix().images(x) is x
    torch.testing.assert_close(Mix(0.3).images(x)[2], x[2])  # the odd one stays as it is


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
