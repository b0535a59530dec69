"""The bench of pretraining measures the real loop: that it trains, and that each row says what it should."""

from __future__ import annotations

import pytest
import torch

from dinobench import runtime
from dinobench.bench import pretrain
from dinobench.bench.pretrain import Shape, epoch_of, overhead, random_batches, shares, throughput, training

SMALL = {"out_dim": 32, "hidden_dim": 16, "bottleneck_dim": 8, "local_crops": 2}
SHAPE = Shape("vit_tiny", 8, 16, 4, 2, 1, tuple(SMALL.items()))


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    return training(SHAPE, tmp_path_factory.mktemp("bench"), runtime.start("cpu"))


def test_an_epoch_is_the_loops_own(loop):
    before = [p.detach().clone() for p in loop.method.student.parameters()]
    real = loop.loader
    ready = random_batches(loop, 2)
    assert [tuple(v.shape) for v in ready.batches[0].views] == [(4, 3, 16, 16)] * 2 + [(4, 3, 8, 8)] * 2
    epoch_of(loop, ready)()
    assert loop.loader is real and loop.at.step == 4  # the second epoch of two steps
    after = list(loop.method.student.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(after, before, strict=True) if a.requires_grad]
    assert moved and all(moved)


def test_rows(loop, monkeypatch):
    seconds = iter([[1.1, 1.0], [1.0, 0.8]])
    monkeypatch.setattr(pretrain, "in_turn", lambda calls, repeats: [c() for c in calls] and next(seconds))
    rows = [*overhead(loop, SHAPE, 1), *throughput(loop, SHAPE, 1), *shares(loop)]
    assert [r.ratio for r in rows[:2]] == pytest.approx([1.1, 0.8])
    assert [r.met for r in rows] == [True, None, None, None, None, None]
    assert rows[0].what == "dino vit_tiny/8 depth 1, 2 x 16 + 2 x 8, batch 4, 32, cpu: loop on given views"
    assert rows[1].ours == "8.0 images/s" and rows[1].limit.startswith("10.0 images/s")
    assert sum(r.ratio for r in rows[2:]) == pytest.approx(1)
    assert [r.what.split()[2] for r in rows[2:]] == ["views", "forward", "backward", "optimizer"]


@pytest.mark.parametrize(("bf16", "bar"), [(True, "at most 100 ms"), (False, "(for comparison)")])
def test_what_auto_takes_is_held_to_the_faster_of_both(monkeypatch, bf16, bar):
    monkeypatch.setattr(pretrain, "CPU", (SHAPE,))
    monkeypatch.setattr(runtime, "faster_on_cpu", lambda: "bf16")
    monkeypatch.setattr(runtime, "bf16_on_cpu", lambda: bf16)
    monkeypatch.setattr(pretrain, "in_turn", lambda calls, repeats: [c() for c in calls] and [1.0, 2.0])
    step, probe = pretrain.precision(1)
    assert step.what.endswith("--precision auto takes, bf16") and step.limit == "1000 ms 32, 2000 ms bf16"
    assert (step.ratio, step.met, probe.bar, probe.met is None) == (2.0, False, bar, not bf16)
