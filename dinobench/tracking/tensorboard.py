"""TensorBoard: `--track tensorboard=DIR`, a folder a run below it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinobench.files import file_name, user_path, writable_folder
from dinobench.tracking import facts, numbers, scores
from dinobench.types import RunRecord

#: What event files begin with.
EVENTS = "events.out.tfevents.*"


class TensorBoard:
    """Event files in `folder`: of a record its scores at the checkpoint's epoch, of a training its curves by step."""

    def __init__(self, folder: Path) -> None:
        """Raises ImportError without TensorBoard, UserError for a folder that cannot be written."""
        from torch.utils.tensorboard import SummaryWriter

        writable_folder(folder)
        self._folder, self._writer = folder, SummaryWriter
        self._trainings: dict[str, Any] = {}

    def record(self, record: RunRecord) -> None:
        """In a folder of the run's name, in the place of what was there of it."""
        folder = self._folder / record.run_id
        for old in folder.glob(EVENTS):
            old.unlink()
        with self._writer(str(folder)) as writer:
            for name, value in scores(record).items():
                writer.add_scalar(name, value, record.checkpoint.epoch or 0)
            writer.add_text("run", "\n".join(f"    {name}: {value}" for name, value in facts(record).items()))

    def epoch(self, training: str, row: Mapping[str, Any]) -> None:
        """In a folder of the training's name."""
        if training not in self._trainings:
            self._trainings[training] = self._writer(str(self._folder / file_name(training)))
        for name, value in numbers(row).items():
            self._trainings[training].add_scalar(name, value, row["step"])
        self._trainings[training].flush()

    def close(self) -> None:
        """Close the event files."""
        for writer in self._trainings.values():
            writer.close()


def open_tracker(target: str) -> TensorBoard:
    """Event files below the folder `target`, by default `tensorboard`."""
    return TensorBoard(user_path(target or "tensorboard"))
