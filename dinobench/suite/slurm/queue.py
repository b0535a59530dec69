"""What of a suite waits or runs in SLURM's queue, by `squeue` alone: accounting need not be there.

Every submission leaves a file before it is made, which says which cells each of its tasks has. Its jobs carry its name,
so that they are known again whatever became of the process that submitted them.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dinobench.errors import UserError
from dinobench.files import atomic_path, file_name, read_regular

#: Bytes of a submission's file at most.
LIMIT = 64 << 20
#: Seconds that one of SLURM's commands may take: a controller under load lets callers wait.
PATIENCE = 120
#: Characters of the suite's name in the names of its jobs.
STEM = 40
#: Of squeue: the job or its array, the task in the array, the name, the state, where it runs or why it waits.
FORMAT = "%F|%K|%j|%T|%R"


@dataclass(frozen=True)
class Job:
    """A job in the queue: `id` as scancel takes it, `state` in SLURM's words, `where`: its node, or why it waits."""

    id: str
    state: str
    where: str


@dataclass(frozen=True)
class Submission:
    """A job or array called `name`: of each task the group's key and the cells' keys. `folder` has its logs."""

    folder: Path
    name: str
    tasks: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def file(self) -> Path:
        return self.folder / "submission.json"

    def write(self) -> None:
        with atomic_path(self.file) as temporary:
            temporary.write_text(json.dumps({"name": self.name, "tasks": self.tasks}), encoding="utf-8")

    def log(self, task: int) -> Path | None:
        """What the last job of a task wrote; None where none ever began."""
        whole = re.compile(rf"\d+_{task}_0_log\.out" if len(self.tasks) > 1 else r"\d+_0_log\.out")
        found = [path for path in self.folder.glob("*_log.out") if whole.fullmatch(path.name)]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)


def new(root: Path, suite: str, tasks: Sequence[tuple[str, tuple[str, ...]]]) -> Submission:
    """A submission with a name that no other has, for tasks of a suite that keeps its files in `root`."""
    name = f"{file_name(suite)[:STEM]}-{secrets.token_hex(4)}"
    return Submission(root / "slurm" / name, name, tuple(tasks))


def submissions(root: Path) -> Iterator[Submission]:
    """Those that were begun, the oldest first; what cannot be read is none."""
    files = (root / "slurm").glob("*/submission.json")
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            found = json.loads(read_regular(file, LIMIT))
            tasks = tuple((str(group), tuple(map(str, cells))) for group, cells in found["tasks"])
            yield Submission(file.parent, str(found["name"]), tasks)


def queued(root: Path) -> dict[str, Job]:
    """The job that has each cell, by its key, of all cells that are in the queue.

    Raises UserError where something was submitted and SLURM does not tell what became of it.
    """
    found: dict[str, Job] = {}
    known = {one.name: one for one in submissions(root)}
    for name, task, job in _jobs(sorted(known)):
        tasks = known[name].tasks
        if task < len(tasks):
            found.update(dict.fromkeys(tasks[task][1], job))
    return found


def never_began(root: Path, pending: Sequence[str], jobs: dict[str, Job]) -> list[Submission]:
    """Submissions with a task that left the queue without a log, though cells of it are `pending`."""
    last: dict[str, tuple[Submission, int]] = {}
    for one in submissions(root):
        last.update((cell, (one, task)) for task, (_, cells) in enumerate(one.tasks) for cell in cells)
    missing = [last[cell] for cell in pending if cell in last and cell not in jobs]
    lost = [one for one, task in missing if one.log(task) is None]
    return list(dict.fromkeys(lost))


def _jobs(names: Sequence[str]) -> Iterator[tuple[str, int, Job]]:
    """(name, task, job) of all jobs of these names that have not ended."""
    if not names:
        return
    text = command("squeue", "--noheader", "--array", f"--name={','.join(names)}", f"--format={FORMAT}")
    for line in text.splitlines():
        number, task, name, state, where = line.strip().split("|", 4)
        if name in names:
            yield name, int(task) if task.isdecimal() else 0, Job(
                f"{number}_{task}" if task.isdecimal() else number, state, where.strip("()")
            )  # fmt: skip


def command(*words: str) -> str:
    """What one of SLURM's commands prints. Raises UserError where it fails or is not there."""
    if shutil.which(words[0]) is None:
        raise UserError(f"{words[0]}: no such command here: SLURM is asked from a machine of its cluster")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"{words[0]}: no answer in {PATIENCE} s; is SLURM's controller up?") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{words[0]}: {said[-1]}")
    return done.stdout
