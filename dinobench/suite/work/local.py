"""A suite on this machine: persistent processes, one a device, that take the groups in turn.

A group that asks for several devices gets them at once, as many as there are, when it is its turn; meanwhile the
processes that they are of wait.

What is done is on the disk as soon as it is, so that whatever ends a process, or all of them, costs what was being
computed and no more, and the same call goes on from there. Two calls at once share the work: a group belongs to
whoever holds its lock.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dinobench import console
from dinobench.errors import UserError
from dinobench.results import leaderboard
from dinobench.signals import StopRequest
from dinobench.suite.cells import Plan
from dinobench.suite.task import AGAIN, BUSY, Told, read_task, write_tasks
from dinobench.suite.work import failures
from dinobench.suite.work.apart import VISIBLE
from dinobench.suite.work.failures import Kind
from dinobench.suite.work.folders import Folders

#: Seconds between two looks at the processes, and until a group that another call has is asked for again.
TICK, LATER = 0.25, 1.0
#: Seconds that a process has to end in order, once more than one signal has come.
GRACE = 5.0
#: Where libraries read how many threads they may start.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[str]
    task: Path | None = None
    cell: str | None = None  # that it has begun and not ended
    ready: bool = False
    holds: tuple[int, ...] = ()  # the devices that its task has


def run_locally(
    plan: Plan,
    *,
    device: str = "auto",
    processes: int | None = None,
    told: Told = lambda event: None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run what the plan has to do; returns when every cell of it is done or has failed.

    `processes`: as many as there are devices where None, one on a CPU, which share its threads. `told` hears the
    events of `run_task`, and how many "processes" there are whenever one is started; `tick` is called several times a
    second. The first signal to end is passed on, and raises Interrupted once all have saved what they could; a second
    one ends them at once. Raises UserError where the results folder cannot be written.
    """
    if processes is not None and processes < 1:
        raise UserError(f"--processes {processes}: at least one is needed")
    launcher = _Launcher(plan, device, processes, told)
    try:
        launcher.run(tick)
        launcher.dismiss()
        if (launcher.folders.out / "runs").is_dir():
            for path, reason in leaderboard.rebuild(launcher.folders.out)[1]:
                console.warn(f"{path}: left out of the leaderboard: {reason}")
    finally:
        launcher.end()


class _Launcher:
    def __init__(self, plan: Plan, device: str, processes: int | None, told: Told) -> None:
        self.device, self.processes, self.told = device, processes, told
        self.retries = plan.suite.retries
        self.folders = Folders(Path(os.path.abspath(plan.suite.out)), plan.suite.name)
        self.waiting = [(0.0, number, path) for number, path in enumerate(write_tasks(plan))]  # a heap, by when
        asked = [group.resources.devices for group in plan.groups]
        self.asked = {path: devices for (_, _, path), devices in zip(self.waiting, asked, strict=True)}
        self.events: queue.SimpleQueue[tuple[_Worker, Mapping[str, Any] | None]] = queue.SimpleQueue()
        self.workers: list[_Worker] = []
        self.devices = 0  # besides the CPU, once the first process has told
        self.counted = False  # whether it has
        self.stillborn = 0  # processes that ended before they were ready, since the last one that was
        self.stop = StopRequest()

    def run(self, tick: Callable[[], None]) -> None:
        passed_on, due = False, 0.0
        with self.stop.listening():
            while self.waiting or any(w.task for w in self.workers):
                if self.stop.asked and not passed_on:
                    passed_on = True
                    self._signal(self.stop.number)
                if passed_on and not any(w.process.poll() is None for w in self.workers):
                    break
                if not passed_on:
                    self._start()
                    self._hand_out()
                with suppress(queue.Empty):
                    self._heard(*self.events.get(timeout=TICK))
                    while True:
                        self._heard(*self.events.get_nowait())
                if time.monotonic() >= due:  # events may come faster than anybody can look
                    tick()
                    due = time.monotonic() + TICK
        if passed_on:
            raise self.stop.interrupted()

    def dismiss(self) -> None:
        """Those that wait for a task begin to end, which takes them a moment."""
        for worker in self.workers:
            if worker.task is None:
                _say(worker, None)

    def end(self) -> None:
        """All processes end: those that wait for a task in order, the others at once."""
        self.dismiss()
        deadline = time.monotonic() + GRACE
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()) if worker.task is None else 0)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _signal(self, number: int) -> None:
        for worker in self.workers:
            with suppress(ProcessLookupError):
                worker.process.send_signal(number if os.name == "posix" else signal.SIGTERM)

    def _start(self) -> None:
        """As many processes as there is work for, of those that may be."""
        known = any(worker.ready for worker in self.workers)
        most = self.processes or max(1, self.devices)
        if self.processes is None and not known:
            most = 1  # which tells how many devices there are
        busy = sum(worker.task is not None for worker in self.workers)
        while len(self.workers) < min(most, busy + len(self.waiting)):
            taken = {worker.number for worker in self.workers}
            number = next(i for i in range(most) if i not in taken)
            self.workers.append(self._worker(number, most))
            self.told({"event": "processes", "number": len(self.workers)})

    def _worker(self, number: int, most: int) -> _Worker:
        environment = dict(os.environ)
        if self.devices > 1 and number:
            environment[VISIBLE] = self._names()[number % self.devices]
        if most > 1 and self.devices <= 1:
            share = str(max(1, len(os.sched_getaffinity(0)) // most if hasattr(os, "sched_getaffinity") else 1))
            environment.update({name: share for name in THREADS if name not in environment})
        log = self.folders.log(_log_of(number))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "dinobench.suite.work.worker", self.device], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", env=environment,
                start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on
            )  # fmt: skip
        worker = _Worker(number, process)
        threading.Thread(target=self._listen, args=(worker, process.stdout), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker, lines: IO[str]) -> None:
        for line in lines:
            with suppress(ValueError):  # cut short by a kill
                self.events.put((worker, json.loads(line)))
        self.events.put((worker, None))

    def _names(self) -> list[str]:
        """What the devices are called by whoever may see them all."""
        visible = os.environ.get(VISIBLE, "").split(",")
        return visible if len(visible) >= self.devices else [str(i) for i in range(self.devices)]

    def _hand_out(self) -> None:
        for worker in self.workers:
            if worker.task is None and self.waiting and self.waiting[0][0] <= time.monotonic():
                if (holds := self._free(worker, self.asked[self.waiting[0][2]])) is None:
                    continue  # and what waits behind it waits too, or it would wait for ever
                worker.task, worker.holds = heapq.heappop(self.waiting)[2], holds
                _say(worker, {"file": str(worker.task), "devices": self._several(holds)})

    def _several(self, holds: Sequence[int]) -> list[str]:
        return [self._names()[i] for i in holds] if len(holds) > 1 else []

    def _free(self, worker: _Worker, asked: int) -> tuple[int, ...] | None:
        """The devices on which a process may begin a task that asks for so many; None where it has to wait for them."""
        if asked > 1 and not self.counted:
            return None
        there = max(1, self.devices)
        own, busy = worker.number % there, [other.holds for other in self.workers if other.task is not None]
        if (asked := min(asked, there)) <= 1:
            return None if any(own in holds for holds in busy if len(holds) > 1) else (own,)
        taken = {device for holds in busy for device in holds}
        free = [device for device in range(there) if device not in taken]
        if own not in free or len(free) < asked:
            return None
        return tuple(sorted([own, *(device for device in free if device != own)][:asked]))

    def _counted(self, devices: int) -> None:
        """How many devices there are; where some task asks for more, that is said once."""
        self.devices = max(self.devices, devices)
        if not self.counted and (most := max(self.asked.values(), default=1)) > max(1, self.devices):
            here = f"{self.devices} of them" if self.devices > 1 else "one device" if self.devices else "the CPU alone"
            console.note(
                f"[resources] asks for up to {most} devices a task, and here is {here}, which decides no number: what "
                "asks for more gets what there is; --launcher slurm gives all"
            )
        self.counted = True

    def _heard(self, worker: _Worker, event: Mapping[str, Any] | None) -> None:
        if event is None:
            return self._gone(worker)
        if event["event"] == "ready":
            worker.ready, self.stillborn = True, 0
            self._counted(event["devices"])
        elif event["event"] == "ended":
            task, worker.task = worker.task, None
            if task is not None and event["code"] in (BUSY, AGAIN):
                self._later(task)
        else:
            if event["event"] != "progress":
                worker.cell = event["cell"] if event["event"] == "begun" else None
            self.told(event)
        return None

    def _later(self, task: Path) -> None:
        heapq.heappush(self.waiting, (time.monotonic() + LATER, len(self.waiting), task))

    def _gone(self, worker: _Worker) -> None:
        """A process that is no more: what it was at is for another one, its cell as often as faults are."""
        self.workers.remove(worker)
        code = worker.process.wait()
        if worker.task is None or self.stop.asked:
            return
        why = f"its process ended with code {code}" if code >= 0 else f"its process was killed by {_signal_name(-code)}"
        log = self.folders.log(_log_of(worker.number))
        if not worker.ready:
            self.stillborn += 1
            if self.stillborn > self.retries:
                last = next(iter(failures.last_lines(log, 1)), "it said nothing")
                raise RuntimeError(f"a process of the suite cannot start: {why}: {last.strip()}; see {log}")
        elif worker.cell is not None:
            self._lost(worker.task, worker.cell, why)
        self._later(worker.task)

    def _lost(self, task: Path, key: str, why: str) -> None:
        """Count what took a cell's process against the cell: it may well be too large for the machine's memory."""
        cell = next(cell for cell in read_task(task).cells if cell.key == key)
        file = self.folders.failed(key)
        before = failures.read(file)
        attempts = 1 + (before.attempts if before is not None else 0)
        failed = failures.failure(dataclasses.asdict(cell), Kind.FAULT, why, self.folders.log(key), attempts)
        failures.write(file, failed)
        said = {"kind": Kind.FAULT, "message": why, "attempts": attempts, "again": failed.again(self.retries)}
        self.told({"event": "failed", "cell": key, **said})


def _log_of(worker: int) -> str:
    return f"worker-{worker}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say(worker: _Worker, task: Mapping[str, Any] | None) -> None:
    """A line to a process, which may be gone: that is heard elsewhere."""
    assert worker.process.stdin is not None
    with suppress(OSError):
        worker.process.stdin.write(json.dumps(task) + "\n")
        worker.process.stdin.flush()
