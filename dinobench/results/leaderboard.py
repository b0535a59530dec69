"""The leaderboard: a pure function of the records, as a table with fixed columns, order and rounding.

Records keep full precision; the only rounding is here, so rebuilding from the same records gives the same bytes. It
is written under the lock of the results folder, so that of two processes that finish together none loses a row.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from dinobench.errors import UserError
from dinobench.escaping import csv_cell
from dinobench.files import atomic_path, locked_folder, sweep
from dinobench.results.records import read_file, uncollected
from dinobench.results.vouched import checked
from dinobench.types import RunRecord

#: Inode, time of change in ns and size of a record's file.
State: TypeAlias = tuple[int, int, int]

COLUMNS = (
    "model", "method", "arch", "protocol", "profile", "dataset", "metric", "value", "ci_low", "ci_high", "n", "seed",
    "weights_digest", "config_hash", "dataset_fingerprint", "run_id", "dinobench_version",
)  # fmt: skip
#: Decimals of scores: a hundredth of a per cent is below the interval of any data set in use.
DECIMALS = 2
_ROUNDED = f"%.{DECIMALS}f"
#: Characters of a digest: enough to tell rows apart, short enough to read.
DIGEST = 12


def _rows(record: RunRecord) -> list[tuple[Any, ...]]:
    """The rows as tuples in the order of COLUMNS: a large board has a hundred thousand of them."""
    names = (
        record.checkpoint.name, record.checkpoint.method, record.checkpoint.arch, record.protocol, record.profile,
        record.dataset,
    )  # fmt: skip
    before = tuple(map(csv_cell, names))
    after = (
        record.seed, record.checkpoint.weights_digest[:DIGEST], record.config_hash[:DIGEST],
        record.dataset_fingerprint[:DIGEST], record.run_id, record.dinobench_version,
    )  # fmt: skip
    return [
        (
            *before, name, _ROUNDED % m.value, "" if m.ci_low is None else _ROUNDED % m.ci_low,
            "" if m.ci_high is None else _ROUNDED % m.ci_high, m.n, *after,
        )
        for name, m in record.metrics.items()
    ]  # fmt: skip


def lines(records: Sequence[RunRecord]) -> list[tuple[Any, ...]]:
    """The rows of the leaderboard: protocols and data sets apart, models by name, metrics in the protocol's order."""
    ordered = sorted(
        records, key=lambda r: (r.protocol, r.dataset, r.profile, r.config_hash, r.checkpoint.name, r.run_id)
    )
    return [row for record in ordered for row in _rows(record)]


def rebuild(results: Path) -> tuple[Path, list[tuple[Path, str]]]:
    """Write `<results>/leaderboard.csv` from the records; returns its path and the broken records left out.

    Raises UserError when the folder cannot be written.
    """
    path, _, broken = build(results)
    return path, broken


def build(results: Path) -> tuple[Path, list[tuple[Any, ...]], list[tuple[Path, str]]]:
    """As `rebuild`, and the rows that went into it, in between: making a hundred thousand of them twice is felt."""
    board = Board(results)
    rows = board.rebuild()
    return board.path, rows, board.broken


class Board:
    """The leaderboard of a folder whose records come one by one: each is read once, while it stays as it is.

    What is contradicted by its items is found when it is read, as in `rebuild`; items that change later are left to it.
    """

    #: Of the time that passes, what `refresh` takes at most.
    SHARE = 0.01

    def __init__(self, results: Path) -> None:
        self.results, self.path = results, results / "leaderboard.csv"
        self.broken: list[tuple[Path, str]] = []
        self._known: dict[str, tuple[State, RunRecord | str]] = {}
        self._rest = 0.0  # until then, by the monotonic clock, it would be too soon

    def refresh(self) -> None:
        """`rebuild`, unless that would take more than `SHARE` of the time: of a thousand quick runs not after each."""
        if time.monotonic() >= self._rest:
            self.rebuild()

    @uncollected()
    def rebuild(self) -> list[tuple[Any, ...]]:
        """Write the leaderboard as the records are now, those of other processes among them, and return its rows.

        Raises UserError when the folder cannot be written.
        """
        began = time.monotonic()
        seen = None
        try:
            with locked_folder(self.results, wait=True):
                # Where there are no locks, another process may add a record between our reading and our writing, and
                # finish before us: whoever writes last must have seen them all.
                while (now := _state(self.results)) != seen:
                    seen = now
                    self._read(now)
                    rows = lines([r for _, r in self._known.values() if isinstance(r, RunRecord)])
                    with (
                        atomic_path(self.path) as temporary,
                        open(temporary, "w", encoding="utf-8", newline="") as file,
                    ):
                        writer = csv.writer(file, lineterminator="\n")
                        writer.writerow(COLUMNS)
                        writer.writerows(rows)
            sweep(self.results)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        self._rest = time.monotonic() + (time.monotonic() - began) * (1 / self.SHARE - 1)
        return rows

    def _read(self, now: dict[str, State]) -> None:
        """Take in what is new or has changed, and drop what is gone."""
        folder = self.results / "runs"
        new: dict[str, RunRecord | str] = {}
        for name, state in now.items():
            if name not in self._known or self._known[name][0] != state:
                try:
                    new[name] = read_file(folder / name)
                except (OSError, ValueError) as error:
                    new[name] = str(error)
        sound, contradicted = checked(self.results, [found for found in new.values() if isinstance(found, RunRecord)])
        believed, reasons = {id(record) for record in sound}, {path.stem: reason for path, reason in contradicted}
        for name, found in new.items():
            if isinstance(found, RunRecord) and id(found) not in believed:
                new[name] = reasons[found.run_id]
        self._known = {name: (now[name], new[name] if name in new else self._known[name][1]) for name in now}
        self.broken = [(folder / name, found) for name, (_, found) in self._known.items() if isinstance(found, str)]


def _state(results: Path) -> dict[str, State]:
    """By the names of the records, in order, what changes whenever one does: every one is written as a new file."""
    states = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(results / "runs") as entries:
        for name in sorted(e.name for e in entries if e.name.endswith(".json") and e.name[0] != "."):
            try:
                stat = os.stat(results / "runs" / name)
                states[name] = stat.st_ino, stat.st_mtime_ns, stat.st_size
            except OSError:  # gone since, or a link to nowhere
                states[name] = 0, 0, 0
    return states
