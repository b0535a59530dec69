from __future__ import annotations

import pytest
from helpers.differing import CONFIG, run

from dinobench.cli import compare
from dinobench.compare import ablation, explain
from dinobench.errors import UserError
from dinobench.types import ComputeOptions


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
    (b,) = run_protocols("knn", "pixels:4", settings={"k": "20", "n_per_class": 20, "tries": 2}, seed=1, **same)
    found = ablation.ablate(explain.explain(a, b), device="cpu", out=tmp_path / "flips")
    assert {f.name for f in found.flips} == {"n_per_class", "tries", "weights", "seed"}
    assert found.base == found.a and found.together == found.b and found.left == 0
    assert len(list((tmp_path / "flips" / "runs").glob("*.json"))) == 5
    monkeypatch.chdir(tmp_path)
    compare.explain(a.run_id, b.run_id, out, flip=True, out=tmp_path / "flips")
    shown = capsys.readouterr().out
    assert "all of these" in shown and "interaction" in shown and "left over" in shown
