"""Pairs of runs as a user gets them."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pandas as pd
import pytest
from helpers.runs import run
from scipy import stats as scipy_stats

from dinobench.compare.pair import pair
from dinobench.errors import UserError
from dinobench.results import comparability, records
from dinobench.results.items import read_items
from dinobench.stats.paired_tests import holm, paired_test
from dinobench.types import MetricValue

LABELS = np.array(["cat", "dog", "eel"])


def test_right_or_wrong_images(tmp_path):
    rng = np.random.default_rng(4)
    a, b = rng.random(600) < 0.8, rng.random(600) < 0.7
    labels = LABELS[np.arange(600) % 3]
    run(tmp_path, "a", a, columns={"label": labels})
    run(tmp_path, "b", b, columns={"label": labels})
    (result,) = pair(tmp_path, "a", "b").results
    found = result.primary
    assert (found.won_a, found.won_b, found.tied) == ((a & ~b).sum(), (b & ~a).sum(), (a == b).sum())
    assert found.difference == pytest.approx(100 * (a.mean() - b.mean())) and found.ci_low < found.difference
    assert found.p == pytest.approx(scipy_stats.binomtest(found.won_a, found.won_a + found.won_b).pvalue)
    assert found.p_holm == found.p and "McNemar" in found.method and found.items == found.groups == 600
    where = {g.group: g for g in result.where}
    assert set(where) == set(LABELS) and where["cat"].a == pytest.approx(100 * a[labels == "cat"].mean())
    assert [g.difference for g in result.where] == sorted((g.difference for g in result.where), reverse=True)
    back = pair(tmp_path, "b", "a").results[0].primary
    assert back.difference == pytest.approx(-found.difference) and back.won_a == found.won_b


def test_items_in_another_order_are_matched_by_id(tmp_path):
    rng = np.random.default_rng(5)
    a, b, order = rng.random(50), rng.random(50), rng.permutation(50)
    ids = np.array([f"{i:05d}" for i in range(50)])
    run(tmp_path, "a", a)
    run(tmp_path, "b", b[order], ids=ids[order])
    assert pair(tmp_path, "a", "b").results[0].primary.won_a == (a > b).sum()


def test_objects_of_a_video_are_one_draw_and_less_decay_wins(tmp_path):
    rng = np.random.default_rng(6)
    videos = np.repeat([f"v{i}" for i in range(8)], 3)
    shift = np.repeat(rng.normal(0.05, 0.1, 8), 3)
    a, b = rng.random(24) * 0.1 + 0.5 + shift, rng.random(24) * 0.1 + 0.5
    for model, values in (("a", a), ("b", b)):
        run(tmp_path, model, values, metric="J_decay", protocol="davis", columns={"video": videos})
    found = pair(tmp_path, "a", "b").results[0].primary
    assert (found.groups, found.items, found.cluster) == (8, 24, "video") and not found.higher_is_better
    assert found.won_a == (a < b).sum()
    alone = paired_test(a, b)
    assert found.ci_high - found.ci_low > 100 * (alone.interval()[1] - alone.interval()[0])
    sums = (a - b).reshape(8, 3).sum(axis=1)
    flips = np.abs([np.dot(sums, signs) for signs in product((-1, 1), repeat=8)])
    assert found.p == pytest.approx((flips >= abs(sums.sum()) - 1e-12).mean())


def test_the_items_can_name_their_cluster(tmp_path):
    frame = pd.DataFrame({"id": list("abcdef"), "site": list("xxyyzz"), "top1@k20": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    frame.attrs["cluster"] = "site"
    for model in "ab":
        made = run(tmp_path, model, frame["top1@k20"])
        records.write(tmp_path, made, frame)
    assert pair(tmp_path, "a", "b").results[0].primary.cluster == "site"


def test_several_protocols_are_corrected_together(tmp_path):
    rng = np.random.default_rng(7)
    for protocol in ("knn", "linear", "logreg"):
        for model, share in (("a", 0.8), ("b", 0.75)):
            run(tmp_path, model, rng.random(400) < share, run_id=f"{protocol}-{model}", protocol=protocol)
    run(tmp_path, "a", [1.0, 0.0], run_id="retrieval-a", protocol="retrieval")
    done = pair(tmp_path, "a", "b")
    p = [r.primary.p for r in done.results]
    np.testing.assert_allclose([r.primary.p_holm for r in done.results], holm(p))
    assert done.skipped == ("retrieval-a: b has no retrieval run",)


def test_runs_go_by_id_digest_and_folder(tmp_path):
    a = run(tmp_path / "x", "a", [1, 0, 1, 1])
    run(tmp_path / "y", "b", [1, 1, 0, 1])
    for name in (a.run_id, "aaaaaaaa"):
        assert pair(tmp_path / "x", name, "b", tmp_path / "y").results[0].run_b.checkpoint.name == "b"


def test_metrics_without_items_have_no_p(tmp_path):
    for model, value in (("a", 3.0), ("b", 4.0)):
        made = run(tmp_path, model, [1, 0, 1])
        extra = {**made.metrics, "top1_std@k20": MetricValue(value, None, None, 3, "points")}
        records.write(tmp_path, dataclasses.replace(made, metrics=extra), read_items(tmp_path, made))
    spread = pair(tmp_path, "a", "b").results[0].metrics[1]
    assert spread.p is None and spread.difference == -1 and "not a mean over items" in spread.note


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"config_hash": "e" * 64, "config": {"k": [10], "temperature": 0.07, "flip": None}},
            r"k: \[10,20\] and \[10\]",
        ),
        ({"config_hash": "e" * 64}, "though the settings read alike"),
        ({"dataset_fingerprint": "e" * 64, "dataset": "cifar10"}, r"images: digits \(d+\) and cifar10 \(e+\)"),
        ({"protocol_version": 7}, "version of knn: 1 and 7"),
        ({"broken_images": 2}, "could not be read: 0 and 2"),
        ({"protocol": "linear"}, "protocol: knn and linear"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(tmp_path, changes, said):
    a, b = run(tmp_path, "a", [1, 0, 1]), run(tmp_path, "b", [1, 1, 1], **changes)
    with pytest.raises(UserError, match=said):
        pair(tmp_path, "a", "b")
    assert comparability.key(a) != comparability.key(b) and len(comparability.reasons(a, b)) == 1
    assert comparability.reasons(a, a) == []


@pytest.mark.parametrize(
    ("right", "ids", "said"),
    [
        ([1, 0], None, "1 only in knn-a-digits, such as 00002"),
        ([1, 0, 1], ["00000", "00001", "zz"], "1 only in knn-b-digits, such as zz"),
        ([1, 0, np.nan], None, "top1@k20 of 00002 is in one of them only"),
        ([1, 0, 1], ["00000", "00001", "00001"], "scored different items"),
    ],
)
def test_different_items_are_refused_and_named(tmp_path, right, ids, said):
    run(tmp_path, "a", [1, 0, 1])
    run(tmp_path, "b", right, ids=ids)
    with pytest.raises(UserError, match=said):
        pair(tmp_path, "a", "b")


def test_names_that_are_not_there(tmp_path):
    run(tmp_path, "good", [1, 0, 1])
    for a, b, said in (("good", "god", "did you mean 'good'"), ("good", "knn-good-digits", "same runs")):
        with pytest.raises(UserError, match=said):
            pair(tmp_path, a, b)
    with pytest.raises(UserError, match="no runs/ folder"):
        pair(tmp_path / "nowhere", "a", "b")
