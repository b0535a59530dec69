"""Processes forked from this one, which has imported already what takes a fresh one seconds of CPU.

They are processes all the same: with a number of their own, to be killed, sent signals and waited for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch


def _fresh() -> None:
    """Signals as a shell leaves them, and one thread: a pool of them does not come along."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)


def _type(arguments: list[str], folder: Path, environment: dict[str, str], files: tuple[int, int]) -> None:
    from dinobench.cli import main

    os.setsid()
    _fresh()
    for name, stream, file in zip(("stdout", "stderr"), (1, 2), files, strict=True):
        os.dup2(file, stream)
        setattr(sys, name, os.fdopen(stream, "w", buffering=1, encoding="utf-8", closefd=False))
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["dinobench", *arguments]
    main()


class Command:
    """`dinobench` as typed in `folder`, in a session of its own; whatever is left of it ends with the block."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - closed with the block
        files = tuple(file.fileno() for file in self._files)
        typed = [str(argument) for argument in arguments]
        self._process = multiprocessing.get_context("fork").Process(
            target=_type, args=(typed, folder, environment, files)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.join()
        for file in self._files:
            file.close()

    @property
    def code(self) -> int | None:
        """As of `subprocess`; None while it runs."""
        return self._process.exitcode

    @property
    def out(self) -> str:
        return self._said(0)

    @property
    def err(self) -> str:
        return self._said(1)

    def _said(self, stream: int) -> str:
        file = self._files[stream].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, ready: Callable[[], object], seconds: float = 300) -> None:
        """Until something is so, while it runs."""
        end = time.monotonic() + seconds
        while not ready():
            assert self.code is None and time.monotonic() < end, self.err
            time.sleep(0.01)

    def wait(self, seconds: float = 300) -> int:
        """The code it ends with."""
        self._process.join(seconds)
        assert self.code is not None, f"still running after {seconds} s: {self.err}"
        return self.code


def typed(folder: Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command in a process of its own."""
    with Command(folder, *arguments, **environment) as command:
        return command.wait(), command.out, command.err


def typed_by_two(folder: Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """The same of the first of two processes on the CPU, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told |= {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
    with ExitStack() as stack:
        both = [
            stack.enter_context(Command(folder, *arguments, **environment, **told, RANK=rank, LOCAL_RANK=rank))
            for rank in "01"
        ]
        codes = [command.wait() for command in both]
        assert codes[0] == codes[1], [command.err for command in both]
        return codes[0], both[0].out, both[0].err


def _rank(rank: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    _fresh()
    work(rank, *arguments)


def two_processes(work: Callable[..., None], *arguments: Any) -> None:
    """`work(rank, *arguments)` in two processes at once; what one of them raises is raised."""
    torch.multiprocessing.start_processes(_rank, (work, arguments), nprocs=2, start_method="fork")
