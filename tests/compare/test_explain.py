from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest
from helpers.samples import INFO, record

from dinobench.cli import compare
from dinobench.compare import ablation, explain
from dinobench.errors import UserError
from dinobench.results import records
from dinobench.results.comparability import Difference
from dinobench.types import ComputeOptions, MetricValue, RunRecord

CONFIG = {"k": [20], "temperature": 0.07, "weighting": "exp", "n_per_class": 0, "tries": 1, "resize": 256, "crop": 224,
          "interpolation": "bicubic"}  # fmt: skip


def run(run_id: str = "a", value: float = 50.0, config: dict | None = None, **changes: object) -> RunRecord:
    info = {k.partition(".")[2]: changes.pop(k) for k in [*changes] if k.startswith("checkpoint.")}
    config = {**CONFIG, **(config or {})}
    fields = {"config": config, "config_hash": f"{abs(hash(json.dumps(config))):x}".ljust(64, "0"),
              "metrics": {"top1@k20": MetricValue(value, None, None, 4, "%")},
              "checkpoint": dataclasses.replace(INFO, **info), **changes}  # fmt: skip
    return record(run_id, **fields)


def test_the_same_run_twice_has_nothing_to_explain():
    found = explain.explain(run("a"), run("b", duration_s=9.0, started_at="later", peak_memory_mb=1.0))
    assert found.comparable and not found.differences and found.gap == 0


def test_settings_come_first_with_what_the_protocol_says_of_them():
    a = run(git_commit="1" * 40, device="cpu", seed=0)
    b = run("b", config={"temperature": 0.2, "crop": 64}, git_commit="2" * 40, device="cuda", seed=1,
            versions={"torch": "2.7.0", "timm": "1"}, dataset_fingerprint="e" * 64, precision="bf16",
            **{"checkpoint.weights_digest": "1" * 64})  # fmt: skip
    found = explain.explain(a, b)
    assert [d.name for d in found.differences] == [
        "temperature", "crop", "dataset_fingerprint", "checkpoint.weights_digest", "seed", "precision",
        "version of torch", "version of timm", "device", "git_commit",
    ]  # fmt: skip
    assert [d.name for d in found.differences if d.bars] == ["temperature", "crop", "dataset_fingerprint"]
    assert found.differences[0].meaning == "temperature T of the weights exp(cosine / T)"
    assert not found.comparable and any("temperature" in r for r in found.reasons)


def test_comparable_runs_may_still_differ_and_the_items_say_where():
    a, b = run("a", 50), run("b", 75, device="cuda")
    one = pd.DataFrame({"id": ["w", "x", "y", "z"], "top1@k20": [1.0, 1.0, 0.0, 0.0]})
    other = pd.DataFrame({"id": ["z", "y", "x", "w"], "top1@k20": [1.0, 1.0, 1.0, 0.0]})
    found = explain.explain(a, b, (one, other))
    assert found.comparable and found.gap == 25
    assert found.items == explain.Items(shared=4, differing=3, a_ahead=1, b_ahead=2, only_a=0, only_b=0)
    less = explain.explain(a, b, (one, other.iloc[:2]))
    assert less.items is not None and (less.items.shared, less.items.only_a) == (2, 2)
    assert explain.explain(a, b, (one, None)).items is None


def test_other_protocols_and_ones_that_are_not_installed():
    found = explain.explain(run(), run("b", protocol="nobodys", primary="top1@k20"))
    assert not found.comparable and found.differences[0].name == "protocol" and found.gap is None
    both = [run(i, protocol="nobodys", config={"crop": c}) for i, c in (("a", 1), ("b", 2))]
    assert explain.explain(*both).differences[0] == Difference("crop", 1, 2, bars=True, setting=True)


@pytest.fixture
def results(tmp_path):
    for r in (run("knn-one-1"), run("knn-one-2", 70, {"temperature": 0.2}), run("knn-two-3")):
        records.write(tmp_path, r, None)
    return tmp_path


def test_runs_are_found_by_id_beginning_or_file(results):
    for name in ("knn-two-3", "knn-tw", str(results / "runs" / "knn-two-3.json")):
        assert explain.find(results, name)[0].run_id == "knn-two-3"
    (results / "runs" / "half.json").write_text('{"schema": 1')
    for name, message in (
        ("knn-one", "beginning of 2 runs: knn-one-1, knn-one-2"), ("knn-tow-3", "did you mean 'knn-two-3'"),
        ("half", "half.json: .*run it again"), (str(results / "runs" / "half.json"), "runs/"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as raised:
            explain.find(results, name)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no runs/ folder"):
        explain.find(results / "nowhere", "x")


def linear(weights: float = 0, **effects: float):
    """A run that scores 50 and what its settings, seed and checkpoint add; `both` is for crop and temperature."""

    def fake(protocol, ckpt, data, *, profile, settings, seed, compute, out):
        changed = {k for k in CONFIG if settings[k] != CONFIG[k]}
        if changed == {"tries"}:
            raise UserError("knn: several tries need n_per_class")
        value = 50 + sum(effects.get(k, 0) for k in changed) + effects.get("seed", 0) * seed
        value += effects.get("both", 0) * ({"crop", "temperature"} <= changed) + weights * (ckpt == "b.pth")
        digest = ("b" if ckpt == "b.pth" else "f") * 64
        return [run("x", value, settings, **{"checkpoint.weights_digest": digest})]

    return fake


def test_flips_attribute_the_difference_factor_by_factor():
    a = run("a", 50)
    b = run("b", 60, {"crop": 64, "temperature": 0.2}, seed=1)
    found = ablation.ablate(explain.explain(a, b), run=linear(crop=5, temperature=-2, both=3, seed=1))
    assert {f.name: found.effect(f) for f in found.flips} == {"temperature": -2, "crop": 5, "seed": 1}
    assert found.base == 50 and found.together == 57 and found.interaction == 3 and found.left == 3


def test_a_value_that_cannot_stand_alone_is_said_so_and_counts_in_the_rest():
    b = run("b", 47, {"tries": 3, "n_per_class": 5})
    found = ablation.ablate(explain.explain(run("a", 50), b), run=linear(n_per_class=-2, tries=-1))
    tries = next(f for f in found.flips if f.name == "tries")
    assert tries.value is None and "several tries need n_per_class" in tries.note
    assert found.together == 47 and found.interaction == -1 and found.left == 0


def test_other_weights_are_a_factor_too():
    b = run("b", 55, **{"checkpoint.weights_digest": "b" * 64, "checkpoint.path": "b.pth", "checkpoint.name": "B"})
    found = ablation.ablate(explain.explain(run("a", 50), b), run=linear(weights=5))
    assert [(f.name, found.effect(f)) for f in found.flips] == [("weights", 5)] and found.left == 0


def test_flips_that_cannot_be_are_one_clear_line():
    a, b = run("a", 50), run("b", 60, {"crop": 64})

    def absent(*args, **kwargs):
        raise UserError("fake: no such file")

    for one, other, options, message in (
        (a, run("b", protocol="logreg"), {}, "different protocols"),
        (a, run("b", device="cuda"), {}, "nothing can be changed in turn"),
        (run("a", duration_s=3600.0), b, {}, "allow them with --minutes 180"),
        (a, b, {"run": absent}, "no such file .--ckpt and --data say where"),
        (
            run("a", **{"checkpoint.weights_digest": "e" * 64}),
            b,
            {"run": linear()},
            "other weights than a",
        ),
        (run("a", dataset_fingerprint="e" * 64), b, {"run": linear()}, "the data set is not the one"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            ablation.ablate(explain.explain(one, other), **options)
        assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_flipping_real_runs(tmp_path, capsys, monkeypatch):
    """Two real runs on the embedded digits: all flips together are B, to the last digit."""
    from dinobench.runner import run as run_protocols

    out = tmp_path / "results"
    same = {"data": "digits", "compute": ComputeOptions(device="cpu"), "out": out}
    (a,) = run_protocols("knn", "pixels:8", settings={"k": "20"}, **same)
    (b,) = run_protocols("knn", "pixels:4", settings={"k": "20", "n_per_class": 5, "tries": 2}, seed=1, **same)
    found = ablation.ablate(explain.explain(a, b), device="cpu", out=tmp_path / "flips")
    assert {f.name for f in found.flips} == {"n_per_class", "tries", "weights", "seed"}
    assert found.base == found.a and found.together == found.b and found.left == 0
    assert len(list((tmp_path / "flips" / "runs").glob("*.json"))) == 5
    monkeypatch.chdir(tmp_path)
    compare.explain(a.run_id, b.run_id, out, flip=True, out=tmp_path / "flips")
    shown = capsys.readouterr().out
    assert "all of these" in shown and "interaction" in shown and "left over" in shown
