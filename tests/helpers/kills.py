"""kill -9 ahead of every step that a piece of work takes on the disk."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

#: Audit events (PEP 578) that change what lies on a disk, `open` where it is for writing; each has a path first.
CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "open"})
#: Of a process that is killed, as waitstatus_to_exitcode has it.
KILLED = -signal.SIGKILL


def killed_at(work: Callable[[], object], folder: Path, step: int) -> bool:
    """Do `work` in a process of its own, killed ahead of its step `step` (from 0) within `folder`.

    A step is a file opened for writing, renamed, removed or synced, or a folder made. Returns whether there was such a
    step; without it the work has ended well.
    """
    if not (pid := os.fork()):
        code = 1
        try:
            _kill_ahead_of(step, os.path.realpath(folder))
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), f"the work itself fails when it is killed at step {step}"
    return code == KILLED


def every_kill(work: Callable[[], object], folder: Path) -> Iterator[int]:
    """The steps one after the other, each once `work` was killed ahead of it, until it ends well."""
    step = 0
    while killed_at(work, folder, step):
        yield step
        step += 1


def killed_at_every_step(
    prepare: Callable[[Path], None], act: Callable[[Path], object], check: Callable[[Path, int], None], root: Path
) -> int:
    """For every step: `prepare` a folder of its own, `act` on it until that step, `check` it; the number of steps."""
    step, ended = 0, False
    while not ended:
        folder = root / str(step)
        folder.mkdir(parents=True)
        prepare(folder)
        ended = not killed_at(lambda folder=folder: act(folder), folder, step)
        check(folder, step)
        step += not ended
    return step


def _kill_ahead_of(step: int, folder: str) -> None:
    left = step

    def count(path: Any) -> None:
        nonlocal left
        if isinstance(path, bytes | str | os.PathLike):
            inside = os.path.realpath(os.fsdecode(path)).startswith(folder)
        else:
            inside = isinstance(path, int)
        if inside and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= inside

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES:
            return
        if event == "open" and not _writes(arguments):
            return
        count(arguments[0])

    sync = os.fsync

    def synced(file: Any) -> None:
        count(file if isinstance(file, int) else file.fileno())
        sync(file)

    flush = np.memmap.flush

    def flushed(array: np.memmap) -> None:
        count(array.filename)
        flush(array)

    os.fsync = synced
    np.memmap.flush = flushed  # type: ignore[method-assign]
    sys.addaudithook(heard)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(int(flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
