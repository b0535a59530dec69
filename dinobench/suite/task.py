"""A group of a suite's cells, those that share a checkpoint and images, as one task for one process.

A cell is done if and only if its record exists, so that a task can be run again at any time, by whoever finds it: what
is done is found, what failed for no fault of its input is tried again, the rest is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from dinobench import console, lazy, runner
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.evaluations.kept import Kept
from dinobench.files import atomic_path, read_regular, writable_folder
from dinobench.registry import said
from dinobench.signals import Interrupted
from dinobench.suite.cells import Cell, Plan, State
from dinobench.suite.file import Compute
from dinobench.suite.training.asked import Training
from dinobench.suite.training.work import ensure
from dinobench.suite.work import failures
from dinobench.suite.work.apart import run_apart
from dinobench.suite.work.failures import Failure, Kind
from dinobench.suite.work.folders import Folders
from dinobench.suite.work.running import Running
from dinobench.types import ComputeOptions, LoadOptions, RunRecord

with lazy.imports():
    import torch

#: What `run_task` returns: all there; a cell without a record, for a fault or for its input alone; to be started again
#: in a fresh process, or once whoever runs it now has ended. A signal gives 128 and its number.
DONE, FAILED, REFUSED, AGAIN, BUSY = 0, 1, 2, 75, 11
#: Seconds before failed cells are tried again, the first time and at most; doubled from time to time.
WAIT, LONGEST = 1.0, 60.0
#: Images in one pass after memory ran out, on a CPU and elsewhere: half of the least that any pass takes by itself.
LESS = 8, 32
#: Bytes of a task at most.
LIMIT = 64 << 20

Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """`folder`: where paths were typed, and mean what they meant there; `out` is absolute.

    `training`: what makes the model of all cells, where the suite trains it.
    """

    suite: str
    group: str
    out: str
    folder: str
    retries: int
    cells: tuple[Cell, ...]
    training: Training | None = None

    @property
    def folders(self) -> Folders:
        return Folders(Path(self.out), self.suite)


def write_tasks(plan: Plan) -> list[Path]:
    """The file of each group of the plan, in its order; what failed of them before is forgotten, and so tried again.

    Raises UserError where the results folder cannot be written.
    """
    suite, paths = plan.suite, []
    folders = Folders(Path(os.path.abspath(suite.out)), suite.name)
    writable_folder(folders.root)
    for group in plan.groups:
        training = suite.trainings.get(group.cells[0].model)
        task = Task(suite.name, group.key, str(folders.out), os.getcwd(), suite.retries, group.cells, training)
        path = folders.task(group.key)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(task), ensure_ascii=False), encoding="utf-8")
        for cell in group.cells:
            failures.forget(folders.failed(cell.key))
        paths.append(path)
    return paths


def read_task(path: Path) -> Task:
    """The task in a file. Raises UserError where it holds none."""
    try:
        found = json.loads(read_regular(path, LIMIT))
        cells = tuple(map(_cell, found.pop("cells")))
        training = found.pop("training", None)
        return Task(**found, cells=cells, training=Training(**training) if training else None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a task of `dinobench suite`: {error}") from error


def _cell(given: Mapping[str, Any]) -> Cell:
    """A cell from what JSON makes of it; a task that was written before there was `loading` and `compute` has none."""
    parts: dict[str, Any] = {
        "state": State(given["state"]), "tests": tuple(given["tests"]), "run_ids": tuple(given["run_ids"]),
        "loading": LoadOptions(**given.get("loading", {})), "compute": Compute(**given.get("compute", {})),
    }  # fmt: skip
    return Cell(**{**given, **parts})


def run_task(
    path: Path,
    device: str = "auto",
    *,
    devices: int = 1,
    visible: Sequence[str] = (),
    told: Told = lambda event: None,
    kept: Kept | None = None,
) -> int:
    """Run the cells of a task one after another; returns one of the codes above.

    Each is begun and ended with an event to `told`: a mapping with `event` ("begun", "progress", "done", "failed" or
    "not applicable"), `cell` and what there is to tell. What a cell writes for people is in its log. `kept` is shared
    with the tasks before. Each of several `devices` has a process of its own; `visible` are their names, where they are
    not those that this process sees.
    """
    task = read_task(Path(path))
    folders = task.folders
    lock = folders.lock(task.group)
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return BUSY
    kept = Kept() if kept is None else kept
    try:
        with contextlib.chdir(task.folder), Running(folders.running(task.group), task.group, told) as running:
            console.watcher = running.progress
            try:
                return _Cells(task, device, devices, visible, told, running, kept).run()
            finally:
                console.watcher = None
                if (folders.out / "runs").is_dir():
                    kept.follow(folders.out, now=True)
    except KeyboardInterrupt as stopped:
        return 128 + int(getattr(stopped, "number", signal.SIGINT))
    finally:
        kept.forget("service")  # with what it holds of the features' cache
        held.release()


class _Cells:
    """The cells of a task, tried in turn, and what came of them."""

    def __init__(
        self, task: Task, device: str, devices: int, visible: Sequence[str], told: Told, running: Running, kept: Kept
    ) -> None:
        self.task, self.device, self.devices, self.visible = task, device, devices, visible
        self.told, self.running, self.kept = told, running, kept
        self.folders = task.folders
        self.kinds: dict[str, Kind] = {}  # of the cells that failed
        self.lost = False  # the device: what is left is for a fresh process
        self.number = int(signal.SIGINT)  # of the signal that stopped it
        self.trained = task.training is None
        self.untrained: Exception | None = None  # why not, since the cells were last tried

    def run(self) -> int:
        todo, wait = list(self.task.cells), WAIT
        while todo := [cell for cell in todo if self.left(cell)]:
            if self.lost:
                return AGAIN
            time.sleep(wait)
            wait = min(2 * wait, LONGEST)
            self.untrained = None
        if not self.kinds:
            return DONE
        return REFUSED if set(self.kinds.values()) == {Kind.INPUT} else FAILED

    def left(self, cell: Cell) -> bool:
        """Try the cell; whether it is to be tried once more."""
        if self.lost:
            return True
        file = self.folders.failed(cell.key)
        before = failures.read(file)
        if before is not None and not before.again(self.task.retries):
            return self._failed(cell, before)
        self.told({"event": "begun", "cell": cell.key})
        self.running.cell(cell.key)
        began = time.monotonic()
        outcome = self._tried(cell, before.attempts if before else 0)
        if isinstance(outcome, Failure):
            failures.write(file, outcome)
            again = self._failed(cell, outcome)
            if outcome.kind is Kind.STOPPED:
                raise Interrupted(self.number)
            return again
        failures.forget(file)
        self.kinds.pop(cell.key, None)
        runs = [record.run_id for record in outcome]
        seconds = round(time.monotonic() - began, 3)
        self.told({"event": "done", "cell": cell.key, "runs": runs, "seconds": seconds})
        return False

    def _failed(self, cell: Cell, failed: Failure) -> bool:
        if failed.kind is Kind.LACKS:
            self.told({"event": "not applicable", "cell": cell.key, "message": failed.message})
            return False
        self.kinds[cell.key] = failed.kind
        again = failed.again(self.task.retries)
        said = {"kind": failed.kind, "message": failed.message, "attempts": failed.attempts, "again": again}
        self.told({"event": "failed", "cell": cell.key, **said})
        return again

    def _tried(self, cell: Cell, attempts: int) -> list[RunRecord] | Failure:
        """The cell's records, or why it has none; where memory ran out, of a second try with smaller batches."""
        log = self.folders.log(cell.key)
        with written_to(log) as file:
            error = None
            for batch_size in (None, self._less(cell)):
                if error is not None:
                    console.note(f"out of memory: once more with {batch_size} images in a pass")
                try:
                    if records := self._records(cell, batch_size):
                        return records
                    raise UnsupportedCapability(f"{cell.model} lacks what {cell.protocol} asks of a model")
                except (Exception, KeyboardInterrupt) as raised:
                    error = raised
                    _tell(raised, file)
                if failures.kind_of(error) is not Kind.MEMORY:
                    break
                _let_go(error)
                self.kept.forget("service")
        assert error is not None
        kind = Kind.LACKS if isinstance(error, UnsupportedCapability) else failures.kind_of(error)
        self.lost = kind is Kind.FAULT and failures.lost_device(error)
        self.number = int(getattr(error, "number", signal.SIGINT))
        message = str(error) if isinstance(error, UserError) else said(error)
        counted = attempts + (kind not in (Kind.STOPPED, Kind.LACKS))
        return failures.failure(dataclasses.asdict(cell), kind, message, log, counted)

    def _less(self, cell: Cell) -> int:
        """Images in one pass after memory ran out: half of what the file asks for, where that is less."""
        less = LESS[self.device != "cpu" and torch.cuda.is_available()]
        asked = cell.compute.batch_size
        return less if asked is None else min(less, max(1, asked // 2))

    def _train(self) -> None:
        """Make the model where that is the suite's to do; once it has failed for one cell it has for the others."""
        if self.trained or self.task.training is None:
            return
        if self.untrained is not None:
            raise self.untrained
        try:
            ensure(self.task.training, self.device, self.running.progress)
        except UserError as error:
            self.untrained = UserError(f"training {self.task.training.name}: {error}")
            raise self.untrained from error
        except Exception as error:
            self.untrained = error
            raise
        self.trained = True

    def _records(self, cell: Cell, batch_size: int | None) -> list[RunRecord]:
        self._train()
        compute = ComputeOptions(device=self.device, devices=self.devices, batch_size=batch_size)
        if self.devices > 1:
            return run_apart(self.folders.task(self.task.group), cell, self.folders.out, compute, self.visible)
        return records_of(cell, self.folders.out, compute, self.kept)


def records_of(cell: Cell, out: Path, compute: ComputeOptions, kept: Kept | None = None) -> list[RunRecord]:
    """The cell's records in `out`, made or found there. `compute` says where; the rest the cell says itself."""
    return runner.run(
        cell.protocol, cell.ckpt, cell.data, test=cell.tests, profile=cell.profile, settings=cell.settings,
        seed=cell.seed, out=out, skip_broken=cell.compute.skip_broken, loading=cell.loading,
        compute=cell.compute.on(compute), kept=kept, limit=cell.limit,
    )  # fmt: skip


@contextlib.contextmanager
def written_to(log: Path) -> Iterator[TextIO]:
    """What this process writes for people in the block, by whatever library, stands at the end of the file yielded.

    One that stays empty is not kept.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with log.open("a", encoding="utf-8", errors="replace") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            for stream in (sys.stdout, sys.stderr, file):
                stream.flush()
            for number, own in enumerate(before, 1):
                os.dup2(own, number)
                os.close(own)
    if not log.stat().st_size:
        log.unlink()


def _tell(error: BaseException, file: TextIO) -> None:
    """Of what the user can mend one line, of all else where it was raised."""
    if isinstance(error, UserError):
        file.write(f"error: {error}\n")
    elif isinstance(error, KeyboardInterrupt):
        file.write("stopped; what was done so far is kept\n")
    else:
        traceback.print_exception(error, file=file)
    file.flush()


def _let_go(error: BaseException) -> None:
    """What the frames of an exception hold, and what the allocators keep of it."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
