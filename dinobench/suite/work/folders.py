"""Where a suite keeps what it goes on by: beside its records, and never in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinobench.files import file_name


@dataclass(frozen=True)
class Folders:
    """The files of the suite `name` under the results folder `out`; groups and cells are named by their keys."""

    out: Path
    name: str

    @property
    def root(self) -> Path:
        return self.out / "suites" / file_name(self.name)

    def task(self, group: str) -> Path:
        """All that a process needs to run a group."""
        return self.root / "tasks" / f"{group}.json"

    def running(self, group: str) -> Path:
        """Who runs a group now, and how far it is."""
        return self.root / "running" / f"{group}.json"

    def lock(self, group: str) -> Path:
        """Held by the process that runs the group."""
        return self.root / "running" / f"{group}.lock"

    def log(self, name: str) -> Path:
        """What a cell, or a worker between cells, wrote for people."""
        return self.root / "logs" / f"{file_name(name)}.log"

    def failed(self, cell: str) -> Path:
        """Why a cell has no record; gone when it has one."""
        return self.out / "failed" / f"{cell}.json"
