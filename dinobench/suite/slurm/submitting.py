"""A suite on SLURM: what is missing is submitted as job arrays of one task a group, by submitit.

submitit submits and carries signals, and is never asked what is done: a cell is done if its record exists, it runs if
`squeue` knows its job, and whatever is neither is missing and submitted by the next `suite run`.
"""

from __future__ import annotations

import contextlib
import io
import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from filelock import FileLock

from dinobench import console, lazy
from dinobench.errors import UserError
from dinobench.files import writable_folder
from dinobench.hashing import digest
from dinobench.suite.cells import Group, Plan
from dinobench.suite.file import Resources
from dinobench.suite.resources import memory_bytes
from dinobench.suite.slurm import queue
from dinobench.suite.slurm.job import SlurmTask
from dinobench.suite.slurm.queue import Submission

with lazy.imports():
    import submitit

    from dinobench.suite.task import write_tasks
    from dinobench.suite.work.folders import Folders

#: Seconds ahead of its end that a job is warned: at most, and as a share of its time. Saving takes moments, but the
#: step or the pass in which the warning comes is finished first, and SLURM looks at its clock once in half a minute.
WARNED, SHARE = 120, 0.5
#: Tasks of an array where SLURM does not say how many it takes (its own default).
ARRAY = 1001
#: Keys of [slurm] that submitit has no word for, and passes on.
PASSED_ON = ("reservation",)


@dataclass(frozen=True)
class Array:
    """Groups that ask for the same, as one job array, or job; `job` is its number once it was submitted."""

    groups: tuple[Group, ...]
    options: Mapping[str, Any]
    job: str = ""

    @property
    def cells(self) -> int:
        return sum(len(group.cells) for group in self.groups)


@dataclass(frozen=True)
class Submitted:
    """What was submitted, or would be, and how many cells were in the queue already."""

    arrays: tuple[Array, ...]
    queued: int


def submit(plan: Plan, dry_run: bool = False) -> Submitted:
    """Submit what of the plan is to do and not in the queue; with `dry_run` only say what that is.

    Raises UserError where this is no machine of a cluster, where jobs could not run in this interpreter, and for what
    sbatch refuses.
    """
    folders = Folders(plan.suite.out.absolute(), plan.suite.name)
    if not dry_run:
        check_interpreter()
        writable_folder(folders.root)
        with FileLock(folders.root / "submitting.lock"):
            return _submit(plan, folders)
    jobs = queue.queued(folders.root)
    return Submitted(tuple(arrays(plan, jobs)), sum(cell.key in jobs for cell in plan.pending))


def _submit(plan: Plan, folders: Folders) -> Submitted:
    jobs = queue.queued(folders.root)
    for lost in queue.never_began(folders.root, [cell.key for cell in plan.pending], jobs):
        console.warn(
            f"{lost.name}: jobs have left the queue without a log: they were cancelled, or their nodes do not see "
            f"{folders.out}, which must be on a file system that all of them share"
        )
    done = [_array(plan, array, folders) for array in arrays(plan, jobs)]
    return Submitted(tuple(done), sum(cell.key in jobs for cell in plan.pending))


def arrays(plan: Plan, jobs: Mapping[str, queue.Job]) -> Iterator[Array]:
    """The job arrays that do what is missing, none of which is in `jobs`, as many as SLURM's limit makes of them."""
    alike: dict[Resources, list[Group]] = {}
    for group in plan.groups:
        if missing := tuple(cell for cell in group.cells if cell.key not in jobs):
            # A task in the queue keeps its file: what else there is to do in its group is a task of its own.
            own = group.key if missing == group.cells else digest(group.key, *(cell.key for cell in missing))[:10]
            alike.setdefault(group.resources, []).append(replace(group, key=own, cells=missing))
    limit = _limit() if alike else ARRAY
    for resources, groups in alike.items():
        chosen = options(resources, plan.suite.slurm)
        for start in range(0, len(groups), limit):
            yield Array(tuple(groups[start : start + limit]), chosen)


def options(resources: Resources, slurm: Mapping[str, Any]) -> dict[str, Any]:
    """sbatch's options by submitit's names. What [slurm] says goes before what the resources come to.

    >>> asked = options(Resources(devices=2, cpus=8, memory="32GB", hours=0.5), {"partition": "gpu", "at_once": 4})
    >>> asked["gpus_per_node"], asked["time"], asked["partition"], asked["array_parallelism"]
    (2, 30, 'gpu', 4)
    """
    given = dict(slurm)
    minutes = max(1, math.ceil(60 * resources.hours))
    more = {"requeue": True, **{key: given.pop(key) for key in PASSED_ON if key in given}, **given.pop("options", {})}
    chosen: dict[str, Any] = {
        "time": minutes,
        "cpus_per_task": resources.cpus,
        "mem": f"{math.ceil(memory_bytes(resources.memory) / 2**20)}M",
        "signal_delay_s": min(WARNED, int(60 * minutes * SHARE)),
        # From 22.05 on a job's steps do not take this over from the job.
        "srun_args": [f"--cpus-per-task={resources.cpus}"],
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": more,
    }
    if resources.devices and "gres" not in given:
        chosen["gpus_per_node"] = resources.devices
    if "at_once" in given:
        chosen["array_parallelism"] = given.pop("at_once")
    return chosen | given


def check_interpreter() -> None:
    """Raises UserError where there is no SLURM, or where jobs, which run in this interpreter, would fail at once."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("sbatch: no such command here: suites are submitted from a machine of SLURM's cluster")
    for module, remedy in (("submitit", "pip install 'dinobench[slurm]'"), ("dinobench", "pip install dinobench")):
        found = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False)
        if found.returncode:
            raise UserError(f"{sys.executable}: cannot import {module}, and jobs run in it: {remedy} there")


def _array(plan: Plan, array: Array, folders: Folders) -> Array:
    """Submit one array. Its file is there first, so that no job is ever without one."""
    tasks = write_tasks(replace(plan, groups=array.groups))
    made = queue.new(folders.root, plan.suite.name, [(g.key, tuple(c.key for c in g.cells)) for g in array.groups])
    made.write()
    executor = submitit.SlurmExecutor(folder=made.folder)
    setup = [*_sees(made), *array.options.get("setup", ())]
    try:
        executor.update_parameters(**{**array.options, "job_name": made.name, "setup": setup})
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit repeats there what sbatch says
            jobs = [
                executor.submit(SlurmTask(str(path), plan.suite.retries, group.resources.devices))
                for path, group in zip(tasks, array.groups, strict=True)
            ]
    except (RuntimeError, ValueError, OSError) as error:  # of submitit's own kinds all are RuntimeErrors
        shutil.rmtree(made.folder, ignore_errors=True)
        raise UserError(f"sbatch refuses: {_said(error)}") from error
    return replace(array, job=jobs[0].job_id.partition("_")[0])


def _sees(made: Submission) -> Sequence[str]:
    """Shell lines at the start of a job, which ends with one line where it does not see the submission's file."""
    file = shlex.quote(str(made.file))
    shared = "--out must be on a file system that all nodes share"
    return [
        f"if [ ! -e {file} ]; then",
        f'    echo "error: $(hostname) does not see "{file}": {shared}"',
        "    exit 2",
        "fi",
    ]


def _said(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    own = [line.partition("error: ")[2] for line in lines if line.startswith("sbatch: error: ")]
    return (own or lines[-1:] or [type(error).__name__])[0]


def _limit() -> int:
    """How many tasks SLURM lets an array have."""
    try:
        text = queue.command("scontrol", "show", "config")
    except UserError:
        return ARRAY
    found = [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("MaxArraySize")]
    return max(1, int(found[0])) if found and found[0].isdecimal() else ARRAY
