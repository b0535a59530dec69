"""Functions killed before, at and after every step that they take in the file system, each time in a fork."""

from __future__ import annotations

import builtins
import io
import os
import signal
import time
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

#: What changes a file system, by module; `open` counts where it is for writing.
STEPS = {os: ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link", "fsync", "chmod", "truncate")}
#: Exit code of a child that was killed, did all, or raised an exception.
KILLED, DONE, RAISED = 9, 0, 70
#: Seconds after which a child hangs.
PATIENCE = 60


def killed_at_every_step(
    prepare: Callable[[Path], None], act: Callable[[Path], object], check: Callable[[Path, int], None], root: Path
) -> int:
    """For k = 0, 1, ...: `prepare` a folder, `act` on it until the k-th step, `check` the folder; the number of steps.

    Even k die right before a step, odd ones in the middle of it where it writes, else right after it.
    """
    k = 0
    while True:
        folder = root / str(k)
        folder.mkdir(parents=True)
        prepare(folder)
        code = _in_fork(lambda folder=folder, k=k: _counting(act, folder, k))
        assert code in (KILLED, DONE), f"step {k}: exit code {code}"
        check(folder, k)
        if code == DONE:
            return k
        k += 1


def _counting(act: Callable[[Path], object], folder: Path, k: int) -> None:
    at = 0

    def counted(function: Callable[..., Any], when: Callable[..., bool] = lambda *a, **k: True) -> Callable[..., Any]:
        @wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal at
            if not when(*args, **kwargs):
                return function(*args, **kwargs)
            if at == k:
                os._exit(KILLED)
            result = function(*args, **kwargs)
            if at + 1 == k:
                os._exit(KILLED)
            at += 2
            return result

        return step

    def half(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def write(path: Path, content: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal at
            if at == k:
                method(path, content[: len(content) // 2], *args, **kwargs)
                os._exit(KILLED)
            at += 1
            return method(path, content, *args, **kwargs)

        return write

    for module, names in STEPS.items():
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    os.open = counted(os.open, lambda path, flags, *a, **k: bool(flags & writes))  # type: ignore[assignment]
    opened = counted(io.open, lambda file, mode="r", *a, **k: isinstance(file, str | os.PathLike) and mode[:1] != "r")
    io.open = builtins.open = opened  # type: ignore[assignment]
    np.memmap.flush = counted(np.memmap.flush)  # type: ignore[method-assign]
    Path.write_bytes, Path.write_text = half(Path.write_bytes), half(Path.write_text)  # type: ignore[method-assign]
    act(folder)


def _in_fork(function: Callable[[], object]) -> int:
    """The exit code of a forked child that calls the function. Fails when it takes too long."""
    child = os.fork()
    if not child:
        code = RAISED
        try:
            function()
            code = DONE
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    until = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("a child hangs")
        time.sleep(0.001)
