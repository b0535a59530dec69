"""MLflow: `--track mlflow=URI`, a server's address or a folder; without one, where MLFLOW_TRACKING_URI says.

Newer versions write into folders only where MLFLOW_ALLOW_FILE_STORE is true, and say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dinobench.files import user_path
from dinobench.hashing import digest
from dinobench.tracking import facts, numbers, scores
from dinobench.types import RunRecord

#: The experiment that runs are put into.
EXPERIMENT = "dinobench"
#: The tag by which a run is found again: a digest of its name, which may hold what a search would stumble over.
TAG = "dinobench.id"


class MLflow:
    """Runs of an experiment, found again by their names, so that what comes twice is there once."""

    def __init__(self, uri: str | None) -> None:
        """Raises ImportError without MLflow, and what MLflow raises where there is no such place."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)

    def record(self, record: RunRecord) -> None:
        """Scores as metrics, settings as parameters."""
        run = self._run(record.run_id)
        for name, value in facts(record).items():
            self._client.log_param(run, name, str(value)[:500])
        self._metrics(run, scores(record), record.checkpoint.epoch or 0)
        self._client.set_terminated(run)

    def epoch(self, training: str, row: Mapping[str, Any]) -> None:
        """Numbers of an epoch at its step."""
        self._metrics(self._run(training), numbers(row), int(row["step"]))

    def close(self) -> None:
        """Everything has been written."""

    def _metrics(self, run: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(run, re.sub(r"[^\w.\-/ ]", "_", name), value, step=step)

    def _run(self, name: str) -> str:
        own = digest(name)
        found = self._client.search_runs([self._experiment], f"tags.`{TAG}` = '{own}'", max_results=1)
        run = found[0] if found else self._client.create_run(self._experiment, run_name=name, tags={TAG: own})
        return str(run.info.run_id)


def open_tracker(target: str) -> MLflow:
    """Runs on the server or in the folder `target`."""
    if target and "://" not in target and target != "databricks":
        return MLflow(user_path(target).resolve().as_uri())
    return MLflow(target or None)
