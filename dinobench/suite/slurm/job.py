"""What a SLURM job of a suite does: it runs one task, and where it has to end before the task does, it is put back.

SLURM asks a job to end when its time is nearly up, and when another takes its place; the task then saves what it can go
on from, and the job goes back into the queue. A job that its user cancelled stays out of it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinobench import lazy, signals
from dinobench.errors import UserError
from dinobench.suite.slurm.queue import command

with lazy.imports():
    from dinobench.suite import task

#: What makes a process take itself for one of several that share the work: here it is alone, and starts its own.
OF_LAUNCHERS = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_NUM_TASKS")


@dataclass(frozen=True)
class SlurmTask:
    """The task in the file `path`, put back into the queue `retries` times at most. It is called in the job.

    Each of several `devices` has a process of its own, as with `dinobench run --devices`.
    """

    path: str
    retries: int
    devices: int = 1

    def __call__(self) -> None:
        """Run it. Exits with `run_task`'s code where that is not 0."""
        for name in OF_LAUNCHERS:
            os.environ.pop(name, None)
        try:
            with signals.handled_by(signals.interrupt):
                code = task.run_task(Path(self.path), devices=max(1, self.devices), told=_tell)
        except KeyboardInterrupt:  # before the task was begun, or after it
            code = signals.exit_code()
        with signals.handled_by(lambda number: None):  # the end is near, and known
            if code == task.AGAIN or code > 128:
                _say(put_back(self.retries))
        if code:
            raise SystemExit(code)


def put_back(retries: int) -> str:
    """Put this job back into the queue, to start again; says whether that was done, or why not."""
    job, restarts = os.environ.get("SLURM_JOB_ID", ""), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if restarts >= retries:
        return f"not put back into the queue: started again {restarts} times, and retries = {retries}"
    try:
        if not _to_go_on(command("scontrol", "--oneliner", "show", "job", job)):
            return "not put back into the queue: cancelled"
        command("scontrol", "requeue", job)
    except UserError as error:
        return f"not put back into the queue: {error}"
    return "put back into the queue"


def _to_go_on(shown: str) -> bool:
    """Whether a job that was asked to end is still to be done, by what `scontrol show job` says of it.

    One that gives way, or is warned of the end of its time, still runs; one that was cancelled, or whose time is over,
    is completing.
    """
    return bool(re.search(r"\bJobState=RUNNING\b|\bReason=TimeLimit\b", shown))


def _tell(event: Mapping[str, Any]) -> None:
    """An event of the task as a line of the job's log; progress is in the file that `suite status` reads."""
    if event.get("event") != "progress":
        _say(json.dumps(dict(event), ensure_ascii=False))


def _say(line: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)
