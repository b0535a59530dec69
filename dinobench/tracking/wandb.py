"""Weights & Biases: `--track wandb=PROJECT`; WANDB_MODE=offline keeps everything on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinobench.hashing import digest
from dinobench.tracking import facts, numbers, scores
from dinobench.types import RunRecord


class WandB:
    """Runs of a project, each with an id that follows from its name, so that what comes twice is there once."""

    def __init__(self, project: str) -> None:
        """Raises ImportError without wandb."""
        import wandb  # type: ignore[import-not-found, unused-ignore]

        self._wandb, self._project = wandb, project
        self._trainings: dict[str, Any] = {}

    def record(self, record: RunRecord) -> None:
        """Scores in the run's summary, settings as its configuration."""
        run = self._run(record.run_id, facts(record))
        run.summary.update(scores(record))
        run.finish()

    def epoch(self, training: str, row: Mapping[str, Any]) -> None:
        """Numbers of an epoch at its step."""
        if training not in self._trainings:
            self._trainings[training] = self._run(training, {})
        self._trainings[training].log(numbers(row), step=int(row["step"]))

    def close(self) -> None:
        """End what trainings began."""
        for run in self._trainings.values():
            run.finish()

    def _run(self, name: str, config: Mapping[str, Any]) -> Any:
        return self._wandb.init(
            project=self._project, id=digest(name)[:16], name=name, config=dict(config), resume="allow",
            reinit="create_new",
        )  # fmt: skip


def open_tracker(target: str) -> WandB:
    """Runs in the project `target`, by default `dinobench`."""
    return WandB(target or "dinobench")
