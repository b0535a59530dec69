from __future__ import annotations

import pandas as pd
import pytest
from helpers.differing import run

from dinobench.compare import explain
from dinobench.errors import UserError
from dinobench.results import records
from dinobench.results.comparability import Difference


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
