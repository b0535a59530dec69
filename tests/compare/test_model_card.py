from __future__ import annotations

import dataclasses
import math

import pytest
import yaml
from helpers.samples import INFO, record
from huggingface_hub import ModelCard

from dinobench.compare.model_card import MARK, model_card
from dinobench.errors import UserError
from dinobench.types import MetricValue


@pytest.fixture
def runs():
    return [
        record("knn-a"),
        record("logreg-a", protocol="logreg", metrics={"top1": MetricValue(80.25, None, None, 9, "%")}, primary="top1"),
        record("seg-a", protocol="segmentation", dataset="VOC: 2012", dataset_fingerprint="1e5" + "0" * 61,
               metrics={"mIoU": MetricValue(33.0, 31.0, 35.0, 12, "%")}, primary="mIoU"),
        record("odd-a", protocol="nobodys", profile="x+limit5"),
    ]  # fmt: skip


def test_what_is_loaded_back_is_what_was_measured(runs, tmp_path):
    (tmp_path / "README.md").write_text(model_card(runs))
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.model_name == "fake" and len(data.eval_results) == 4
    by_run = {r.metric_args["run_id"]: r for r in data.eval_results}
    for run in runs:
        found, measured = by_run[run.run_id], run.metrics[run.primary]
        assert found.metric_value == measured.value and found.dataset_name == run.dataset
        assert found.dataset_revision == run.dataset_fingerprint
        assert found.metric_args.get("ci_low") == measured.ci_low and found.metric_args["n"] == measured.n
        assert found.metric_config == f"{run.protocol} {run.profile}"
    assert [by_run[r].task_type for r in ("knn-a", "seg-a", "odd-a")] == [
        "image-classification", "image-segmentation", "image-feature-extraction",
    ]  # fmt: skip
    assert [by_run[r].metric_type for r in ("knn-a", "logreg-a", "seg-a")] == ["accuracy", "accuracy", "mean_iou"]


def test_metrics_are_chosen_by_pattern(runs):
    front = yaml.safe_load(model_card(runs, ["loss"]).strip().strip("-"))
    found = [metric for result in front["model-index"][0]["results"] for metric in result["metrics"]]
    assert [(m["type"], m["args"]["higher_is_better"]) for m in found] == [("loss", False)] * 2
    with pytest.raises(UserError, match="unknown metric 'top2'"):
        model_card(runs, ["top2"])


def test_a_card_keeps_its_text_and_what_others_measured(runs, tmp_path):
    card = tmp_path / "README.md"
    card.write_text(
        "---\nlicense: mit\nmodel-index:\n- name: fake\n  results:\n  - task: {type: image-classification}\n"
        "    dataset: {type: beans, name: Beans}\n    metrics:\n    - {type: accuracy, value: 0.9}\n---\n"
        "# A model\n\nText.\n"
    )
    for _ in range(2):  # ours are renewed, not added again
        card.write_text(model_card(runs, card=card))
    loaded = ModelCard.load(card)
    assert loaded.data.license == "mit" and loaded.text.strip().endswith("Text.")
    assert (
        sum(MARK in (r.metric_args or {}) for r in loaded.data.eval_results) == 4 == len(loaded.data.eval_results) - 1
    )
    card.write_text("---\nlicense: [\n---\n")
    with pytest.raises(UserError, match=r"README.md: no model card that could be added to"):
        model_card(runs, card=card)


def test_a_card_is_of_one_model(runs):
    other = record("knn-b", checkpoint=dataclasses.replace(INFO, name="other"))
    with pytest.raises(UserError, match=r"a model card is of one model: choose with --model fake \(of fake, other\)"):
        model_card([*runs, other])


def test_odd_names_stay_texts(runs, tmp_path):
    odd = dataclasses.replace(INFO, name="a: [b\n--- # x")
    (tmp_path / "README.md").write_text(model_card([record("1e5", checkpoint=odd, dataset="no")]))
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.model_name == odd.name and data.eval_results[0].dataset_name == "no"
    assert data.eval_results[0].metric_args["run_id"] == "1e5" and math.isfinite(data.eval_results[0].metric_value)
