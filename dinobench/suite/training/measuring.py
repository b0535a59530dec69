"""How long an epoch of a training takes here, timed on its first steps: for plans of what nobody trained before."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from contextlib import closing
from pathlib import Path

from dinobench import console
from dinobench.errors import UserError
from dinobench.suite.training.asked import Training
from dinobench.suite.training.standing import Planned, lasting

#: Steps that are timed, those before them, in which all is imported and warmed up, and seconds that are enough.
STEPS, WARM, ENOUGH = 10, 3, 30.0


class Pace:
    """Times trainings on a device; those whose steps take as long once."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._timed: dict[object, float | None] = {}

    def __call__(self, planned: Planned) -> Planned:
        """The same with the seconds that are left of it; as it is where its steps can't be timed."""
        training = planned.training
        key = repr(dataclasses.replace(training, name="", folder="", settings=lasting(training)))
        if key not in self._timed:
            console.note(f"timing the training of {training.name} on a few steps")
            try:
                with console.hushed():
                    self._timed[key] = seconds_of_epoch(training, self.device)
            except UserError as error:
                console.warn(f"the training of {training.name} can't be timed: {error}")
                self._timed[key] = None
        if (seconds := self._timed[key]) is None:
            return planned
        left = planned.look.total - planned.look.epochs
        return dataclasses.replace(planned, seconds=left * seconds, basis=f"timed here on a few steps ({self.device})")


def seconds_of_epoch(training: Training, device: str) -> float:
    """Seconds. Raises UserError where it can't be begun: no such images, no such device."""
    from dinobench import runtime
    from dinobench.pretrain import images
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.collapse import EpochMeter
    from dinobench.pretrain.loop import Loop

    started = runtime.start(device, 1, training.precision)
    with tempfile.TemporaryDirectory(prefix="dinobench-") as folder:
        run = dataclasses.replace(training.run(), precision=started.precision, results=folder)
        data = images.load(run.data, runs.load_method(run.method))
        loop = Loop(run, Path(folder) / "timed", started, data)
        loop.method.train()
        ends = [time.monotonic()]
        with closing(loop.steps(0, 0, EpochMeter())) as steps:
            for _ in steps:
                ends.append(time.monotonic())
                if len(ends) > WARM + STEPS or ends[-1] - ends[0] > ENOUGH:
                    break
    first = min(WARM, len(ends) - 2)
    return loop.steps_per_epoch * (ends[-1] - ends[first]) / (len(ends) - 1 - first)
