"""Signs of collapse: means over an epoch, spread and rank of features, verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.pretrain.collapse import EpochMeter, Reservoir, effective_rank, feature_std, verdict
from dinobench.pretrain.method import MethodOutput


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def same(x):
    return x


class TestFeatures:
    def test_isotropic_features_spread_evenly(self):
        x = torch.randn(4000, 64, generator=generator())
        assert feature_std(x) == pytest.approx(1, abs=0.01)
        assert feature_std(100 * x) == pytest.approx(feature_std(x))

    def test_feature_std_is_what_its_definition_says(self):
        x = np.random.default_rng(0).normal(size=(50, 7)) + 2
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        assert feature_std(torch.from_numpy(x)) == pytest.approx(unit.std(axis=0).mean() * math.sqrt(7))

    @pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
    def test_effective_rank_agrees_with_an_svd(self, shape):
        x = np.random.default_rng(0).normal(size=shape) ** 3
        values = np.linalg.svd(x, compute_uv=False)
        shares = values / values.sum()
        assert effective_rank(torch.from_numpy(x)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)

    @settings(deadline=None, max_examples=20)
    @given(st.integers(1, 20), st.integers(0, 100))
    def test_effective_rank_of_equally_strong_directions_is_their_number(self, rank, seed):
        q, _ = torch.linalg.qr(torch.randn(32, 20, generator=generator(seed)).double())
        turn, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator(seed + 1)).double())
        assert effective_rank(3 * q[:, :rank] @ turn[:rank]) == pytest.approx(rank, rel=1e-4)


class TestReservoir:
    def test_all_rows_while_they_fit(self):
        x = torch.arange(40.0).reshape(20, 2)
        reservoir = Reservoir(32)
        for part in x.split(7):
            reservoir.add(part)
        assert torch.equal(reservoir.sample(), x)

    def test_every_row_is_kept_equally_often(self):
        kept = torch.zeros(200)
        for seed in range(300):
            reservoir = Reservoir(20, seed)
            for part in torch.arange(200.0)[:, None].split(32):
                reservoir.add(part)
            sample = reservoir.sample()[:, 0].long()
            assert len(set(sample.tolist())) == 20
            kept[sample] += 1
        # 30 expected of each, with a binomial spread of 5.2
        assert kept.min() > 10 and kept.max() < 55
        assert kept[:32].mean() == pytest.approx(30, abs=3) and kept[-32:].mean() == pytest.approx(30, abs=3)

    @pytest.mark.parametrize("at", [1, 20, 21, 77, 199])
    def test_it_goes_on_as_if_nothing_had_been_between(self, at):
        rows = torch.arange(200.0)[:, None].split([at, 13, 200 - at - 13] if at < 187 else [at, 200 - at])
        whole, first = Reservoir(20), Reservoir(20)
        for part in rows:
            whole.add(part)
        first.add(rows[0])
        second = Reservoir(20)
        second.restore(first.state(), torch.device("cpu"))
        for part in rows[1:]:
            second.add(part)
        assert torch.equal(whole.sample(), second.sample()) and whole.seen == second.seen

    def test_training_sees_the_same_random_numbers(self):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        reservoir = Reservoir(4)
        reservoir.add(torch.ones(10, 2))
        assert torch.equal(torch.rand(4), expected)


def together(meters: list[EpochMeter]) -> dict[str, float]:
    """What the first of several processes says."""
    calls = []
    meters = [m for m in meters if m.state()["images"]]
    for meter in meters:
        asked: list[torch.Tensor] = []
        meter.summary(lambda x, asked=asked: asked.append(x) or x)
        calls.append(asked)
    joined = map(torch.cat, zip(*calls, strict=True))
    return meters[0].summary(lambda x: next(joined))


class TestEpochMeter:
    def output(self, value, seed):
        features = torch.randn(8, 6, generator=generator(seed), requires_grad=True)
        return MethodOutput(
            torch.tensor(value, requires_grad=True),
            {"accuracy": torch.tensor(value / 10)},
            {"student": features, "teacher": features[:4].half()},
        )

    def test_means_are_over_images(self):
        meter = EpochMeter()
        meter.add(self.output(1.0, 0), 30)
        meter.add(self.output(4.0, 1), 10)
        summary = meter.summary(same)
        assert summary["loss"] == pytest.approx(1.75) and summary["accuracy"] == pytest.approx(0.175)
        assert list(summary) == [
            "loss", "accuracy", "student_feature_std", "student_effective_rank", "teacher_feature_std",
            "teacher_effective_rank",
        ]  # fmt: skip
        both = torch.cat([self.output(1.0, s).features["student"] for s in (0, 1)]).detach()
        assert summary["student_effective_rank"] == pytest.approx(effective_rank(both))

    def test_processes_are_joined(self):
        one, two, whole = EpochMeter(), EpochMeter(), EpochMeter()
        for i in range(6):
            (one, two)[i % 2].add(self.output(float(i), i), 10 + i)
            whole.add(self.output(float(i), i), 10 + i)
        parts = []
        one.summary(lambda x: parts.append(x) or x)
        other = iter(parts)
        summary = two.summary(lambda x: torch.cat([next(other), x]))
        assert summary == pytest.approx(whole.summary(same))

    @given(st.integers(0, 6), st.integers(1, 3), st.integers(1, 3))
    @settings(max_examples=30, deadline=None)
    def test_what_is_interrupted_goes_on(self, at, before, now):
        """After any step, by as many processes, fewer or more: the same sums, and from as many the same sample."""
        device = torch.device("cpu")
        whole, parts = ([EpochMeter() for _ in range(before)] for _ in range(2))
        for meters in (whole, parts):
            for i in range(at):
                meters[i % before].add(self.output(float(i), i), 10 + i)
        states = [meter.state() for meter in parts]
        later = [EpochMeter() for _ in range(now)]
        for rank, meter in enumerate(later):
            meter.restore(states[rank::now], device)
        for i in range(at, 7):
            whole[i % before].add(self.output(float(i), i), 10 + i)
            later[i % now].add(self.output(float(i), i), 10 + i)
        one, two = (together(meters) for meters in (whole, later))
        assert {k: two[k] for k in ("loss", "accuracy")} == pytest.approx({k: one[k] for k in ("loss", "accuracy")})
        if before == now:
            assert one == two

    def test_a_step_with_other_stats_is_refused(self):
        meter = EpochMeter()
        meter.add(self.output(1.0, 0), 1)
        with pytest.raises(ValueError, match="logs loss, an earlier one loss, accuracy"):
            meter.add(MethodOutput(torch.tensor(1.0)), 1)

    def test_features_that_are_not_finite_do_not_stop_it(self):
        meter = EpochMeter()
        meter.add(MethodOutput(torch.tensor(math.nan), {}, {"student": torch.full((4, 3), math.nan)}), 4)
        assert all(math.isnan(v) for v in meter.summary(same).values())
        assert EpochMeter().summary(same) == {}


def history(**last):
    first = {"teacher_entropy": 6.0, "kl": 0.8, "teacher_feature_std": 0.3, "teacher_effective_rank": 60.0,
             "student_feature_std": 0.3, "student_effective_rank": 60.0}  # fmt: skip
    return [first, first | last]


class TestVerdict:
    @pytest.mark.parametrize(
        ("last", "words"),
        [
            ({"teacher_entropy": 0.02, "kl": 0.001}, "to one dimension: the teacher's entropy is 0.020"),
            ({"teacher_mean_entropy": 1.01, "kl": 0.3}, "to one dimension: the teacher uses 2.7 of its outputs"),
            ({"teacher_entropy": 8.31, "kl": 0.001}, "to the uniform output: the teacher's entropy is 8.31 of at most"),
            ({"teacher_feature_std": 0.004}, "to a point: the standard deviation of the teacher's features is 0.0040"),
            ({"student_feature_std": 0.04}, "to a point: the standard deviation of the student's features is 0.0400"),
            ({"student_effective_rank": 2.0}, "few dimensions: the effective rank of the student's features is 2.0"),
        ],
    )
    def test_says_which_way(self, last, words):
        line = verdict(history(**last), outputs=4096)
        assert line is not None and words in line and "\n" not in line

    @pytest.mark.parametrize(
        "last",
        [
            {},
            {"teacher_entropy": 8.2, "kl": 0.5},  # a sharpened start: near log K, but with something to learn
            {"teacher_entropy": 2.0, "kl": 0.01},  # learned well, neither of the two ends
            {"teacher_entropy": None, "kl": None},
            {"teacher_effective_rank": 10.0},  # a classifier's features end on as many directions as classes
            {"teacher_feature_std": math.nan},
        ],
    )
    def test_is_silent_of_health(self, last):
        assert verdict(history(**last), outputs=4096) is None

    def test_is_silent_of_a_first_epoch(self):
        assert verdict(history(teacher_entropy=0.0, kl=0.0)[1:]) is None
        assert verdict([]) is None

    def test_uniform_is_seen_without_knowing_k(self):
        assert "uniform" in str(verdict(history(teacher_entropy=8.31, kl=0.001)))
