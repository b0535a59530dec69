"""A cell on several devices: in processes of its own, started as `dinobench run --devices N` starts them.

A task's own process stays one: it holds the lock, tells how far it is and writes what failed, whatever becomes of them.
`python -m dinobench.suite.work.apart TASK CELL DEVICE DEVICES BATCH OUTCOME` is each of them; BATCH 0 is the usual one,
and OUTCOME the file in which the first of them tells what came out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinobench import console, signals
from dinobench.errors import UserError
from dinobench.registry import said
from dinobench.results import records
from dinobench.signals import Interrupted
from dinobench.suite.cells import Cell
from dinobench.suite.work import failures
from dinobench.suite.work.failures import Kind
from dinobench.types import ComputeOptions, RunRecord

#: The variable that says which accelerators a process sees, by their names with commas between.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def run_apart(
    task: Path, cell: Cell, out: Path, compute: ComputeOptions, visible: Sequence[str] = ()
) -> list[RunRecord]:
    """The cell's records, made by `compute.devices` processes, which see the devices called `visible` where any are.

    What they raise is raised here, as it counts for others: UserError, MemoryError, Interrupted where a signal came to
    this process, else RuntimeError.
    """
    came: list[int] = []
    environment = {**os.environ, **({VISIBLE: ",".join(visible)} if visible else {})}
    with tempfile.TemporaryDirectory(prefix="dinobench-") as folder:
        outcome = Path(folder) / "outcome.json"
        arguments = [task, cell.key, compute.device, compute.devices, compute.batch_size or 0, outcome]
        running = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, arguments)], stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip

        def pass_on(number: int) -> None:
            came.append(number)
            if "SLURM_JOB_ID" not in os.environ:  # which signals every process of a job itself
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, number)

        with signals.handled_by(pass_on):
            code = running.wait()
        told: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else {}
    if "runs" in told:
        return [records.read_file(out / "runs" / f"{run_id}.json") for run_id in told["runs"]]
    if came:  # a signal that only they had is Lightning Fabric's, which ends all where one is lost
        raise Interrupted(came[0])
    if told.get("kind") == Kind.INPUT:
        raise UserError(told["message"])
    if told.get("kind") == Kind.MEMORY:
        raise MemoryError(told["message"])
    ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    raise RuntimeError(told.get("message") or f"a process of {compute.devices} ended {ended}")


def main(given: Sequence[str]) -> int:
    """One of the processes; returns its exit code."""
    from dinobench.suite import task

    path, key, device, devices, batch, outcome = given
    found = task.read_task(Path(path))
    cell = next(cell for cell in found.cells if cell.key == key)
    compute = ComputeOptions(device=device, devices=int(devices), batch_size=int(batch) or None)
    try:
        with signals.handled_by(signals.interrupt):
            made = task.records_of(cell, found.folders.out, compute)
    except KeyboardInterrupt:
        return signals.exit_code()
    except Exception as error:
        kind = failures.kind_of(error)
        if kind is not Kind.INPUT:
            traceback.print_exception(error)
        _tell(outcome, {"kind": kind, "message": str(error) if kind is Kind.INPUT else said(error)})
        return 2 if kind is Kind.INPUT else 1
    _tell(outcome, {"runs": [record.run_id for record in made]})
    return 0


def _tell(outcome: str, what: dict[str, Any]) -> None:
    if not console.silent:  # the first process
        Path(outcome).write_text(json.dumps(what), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
