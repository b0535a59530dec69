from __future__ import annotations

import pytest
from helpers.samples import record

pytest.importorskip("mlflow", reason="needs pip install 'dinobench[mlflow]'")

from mlflow.tracking import MlflowClient

from dinobench.tracking.mlflow import EXPERIMENT, open_tracker


def test_records_and_curves_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):  # another process, and what comes twice is there once
        tracker = open_tracker(str(tmp_path / "store"))
        tracker.record(record("one"))
        tracker.close()
    for epoch in (1, 2):
        tracker.epoch("it's mine", {"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, "note": "x"})
    client = MlflowClient(tracking_uri=(tmp_path / "store").as_uri())
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert by_name.keys() == {"one", "it's mine"} and len(runs) == 2
    one = by_name["one"]
    assert one.info.status == "FINISHED" and one.data.params["set.k"] == "[10, 20]"
    assert one.data.metrics["knn/top1_k20"] == 74.512345678 and one.data.metrics["knn/top1_k20_ci_low"] == 73.0
    curve = client.get_metric_history(by_name["it's mine"].info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(10, 1.0), (20, 0.5)]
