"""Cells that ended without a record: why, what was said last, and whether another try may help."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from dinobench.errors import UserError
from dinobench.files import atomic_path, read_regular

#: Lines of a cell's log that its failure keeps: the end of a traceback, with what was said before it.
LINES = 40
#: Characters of a line, and bytes of a failure that is read.
WIDTH, LIMIT = 1000, 1 << 20
#: What allocators say that raise a plain RuntimeError: torch's of the CPU, CUDA's libraries.
NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
#: What is said of a device that the process cannot use any more, whatever it tries next.
LOST_DEVICE = ("CUDA error", "CUDA driver error", "device-side assert", "HIP error")


class Kind(StrEnum):
    """INPUT: what was given is at fault, and the same again would be; FAULT: anything else that was raised, or a
    process that was killed; MEMORY: there was too little, with half the batch too; STOPPED: asked to end by a signal;
    LACKS: the model cannot do what the protocol asks, which is no failure.
    """

    INPUT = "input"
    FAULT = "fault"
    MEMORY = "memory"
    STOPPED = "stopped"
    LACKS = "not applicable"


@dataclass(frozen=True)
class Failure:
    """Of a cell: `attempts` are those that failed so far, `lines` the last of its log, `at` a time (ISO 8601, UTC)."""

    cell: Mapping[str, Any]
    kind: Kind
    message: str
    lines: tuple[str, ...]
    attempts: int
    host: str
    at: str

    def again(self, retries: int) -> bool:
        """Whether a process that finds it may try the cell once more without being asked."""
        return self.kind is Kind.STOPPED or (self.kind is Kind.FAULT and self.attempts <= retries)


def failure(cell: Mapping[str, Any], kind: Kind, message: str, log: Path, attempts: int) -> Failure:
    """A failure that happens here and now."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Failure(cell, kind, message, tuple(last_lines(log)), attempts, socket.gethostname(), at)


def last_lines(log: Path, number: int = LINES) -> list[str]:
    """The last lines of a file of any length; none where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - number * WIDTH))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line[:WIDTH] for line in text.splitlines()[-number:]]


def kind_of(error: BaseException) -> Kind:
    """What an exception says of another try."""
    if isinstance(error, KeyboardInterrupt):
        return Kind.STOPPED
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:  # a plug-in's fault stands around what it ran into
        causes.append(cause)
    if any(isinstance(cause, UserError) for cause in causes):
        return Kind.INPUT
    return Kind.MEMORY if any(map(_no_memory, causes)) else Kind.FAULT


def _no_memory(error: BaseException) -> bool:
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
    return (
        named
        or isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY))
    )


def lost_device(error: BaseException) -> bool:
    """Whether the process cannot use its device any more; a fresh one may."""
    return not _no_memory(error) and any(words in str(error) for words in LOST_DEVICE)


def write(path: Path, failed: Failure) -> None:
    with atomic_path(path) as temporary:
        text = json.dumps(dataclasses.asdict(failed), indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def read(path: Path) -> Failure | None:
    """The failure in a file, or None where there is none that can be read."""
    try:
        found = json.loads(read_regular(path, LIMIT))
        lines = tuple(str(line) for line in found.get("lines", ()))
        message = str(found.get("message", next(iter(lines[-1:]), "")))
        return Failure(
            dict(found.get("cell", {})), Kind(found["kind"]), message, lines, int(found.get("attempts", 1)),
            str(found.get("host", "")), str(found.get("at", "")),
        )  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def forget(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
