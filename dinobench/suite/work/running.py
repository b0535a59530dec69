"""Who runs which group of a suite now, and how far it is: a file that its process keeps fresh while it lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dinobench.files import read_regular

#: Seconds between two signs of life, and without one until its process is taken for dead.
BEAT, DEAD = 10.0, 60.0
#: Seconds between two signs of progress, and between two writings of the file: cells may take less.
STEP, REST = 1.0, 0.25
#: Bytes of such a file at most.
LIMIT = 1 << 16


@dataclass(frozen=True)
class Report:
    """`started` (of the cell) and `heartbeat` in seconds since 1970; `done` of `total` of what the cell is at."""

    group: str
    pid: int
    host: str
    job: str | None = None
    cell: str | None = None
    started: float = 0.0
    heartbeat: float = 0.0
    what: str = ""
    done: int = 0
    total: int | None = None

    @property
    def share(self) -> float | None:
        """From 0 to 1, of the step that the cell is at; None where it does not say."""
        return min(self.done / self.total, 1.0) if self.total else None


class Running:
    """Keeps the file at `path` while the block runs, and says every change to `told`, as a mapping."""

    def __init__(self, path: Path, group: str, told: Callable[[Mapping[str, Any]], None]) -> None:
        self.path, self.told = path, told
        self.report = Report(group, os.getpid(), socket.gethostname(), job())
        self._writing, self._stop, self._due = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._said = 0.0

    def __enter__(self) -> Running:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._due.set()
        self._thread.join()
        with suppress(FileNotFoundError):
            self.path.unlink()

    def cell(self, key: str) -> None:
        """The cell that is begun."""
        self._change(cell=key, started=time.time(), what="", done=0, total=None)
        if time.time() - self.report.heartbeat < REST:
            self._due.set()
        else:
            self._write()

    def progress(self, what: str, done: int, total: int | None) -> None:
        """What `console.watcher` is told."""
        now = time.monotonic()
        if now - self._said < STEP:
            return
        self._said = now
        self._change(what=what, done=done, total=total)
        self._write()
        self.told({"event": "progress", "cell": self.report.cell, "what": what, "done": done, "total": total})

    def _change(self, **changes: Any) -> None:
        with self._writing:
            self.report = replace(self.report, **changes)

    def _beat(self) -> None:
        while not self._stop.is_set():
            if self._due.wait(BEAT):
                self._due.clear()
                self._stop.wait(REST)
            self._write()

    def _write(self) -> None:
        """Whole or not at all; a power cut may take it, as it takes the process."""
        with self._writing, suppress(OSError):  # a full disk is the records' to tell
            self.report = replace(self.report, heartbeat=time.time())
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(asdict(self.report)), encoding="utf-8")
            os.replace(temporary, self.path)


def job() -> str | None:
    """The SLURM job that this process is in, an array's with the number of the task."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def read(path: Path) -> Report | None:
    """What a living process says; None where there is none, or it has been silent for long."""
    try:
        report = Report(**json.loads(read_regular(path, LIMIT)))
        fresh = time.time() - report.heartbeat < DEAD
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return report if fresh and _alive(report) else None


def _alive(report: Report) -> bool:
    """Whether its process is there, as far as this machine can tell."""
    if report.host != socket.gethostname() or os.name != "posix":
        return True
    try:
        os.kill(report.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
