"""metrics.jsonl, the history of a training: a JSON object a line, a line an epoch. Nothing else reads or writes it.

A training that is scored has a line for epoch 0, with the scores before its first step and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dinobench.errors import UserError
from dinobench.files import atomic_path, read_regular, sweep, writable_folder

#: The history in the folder of a training.
METRICS = "metrics.jsonl"
#: Bytes of a history at most: a line an epoch is a kilobyte.
LIMIT = 64 << 20
#: Above any value that can be drawn; JSON's integers have any length.
BEYOND = 1e100
#: The folder with copies of histories, NAME.jsonl, in a results folder.
TRAININGS = "training"

EpochRow = dict[str, Any]


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to metrics.jsonl as one line. Numbers that are not finite become null, as JSON has none.

    A line that an interrupted run left unfinished is taken away first.
    """
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    line = json.dumps(clean, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        file.seek(0)
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)
        file.write(line.encode())  # append mode writes at the end, wherever it was read


def parse_metrics(content: bytes) -> tuple[list[EpochRow], list[int]]:
    """The rows of a history in order, and the numbers from 1 of lines that are no JSON object.

    Where a resumed run repeated an epoch the later row counts. Blank lines are nothing.
    """
    rows: dict[int | str, EpochRow] = {}
    unreadable = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            unreadable.append(number)
            continue
        epoch = row.get("epoch")
        key = epoch if type(epoch) is int else f"line {number}"
        rows.pop(key, None)
        rows[key] = row
    return list(rows.values()), unreadable


def read_content(path: Path) -> bytes:
    """The bytes of a history. Raises OSError where there is none, or no file that a training can have written."""
    return read_regular(path, LIMIT)


def read_metrics(path: Path) -> list[EpochRow]:
    """The rows of metrics.jsonl, in order; none where there is no such file.

    An unfinished last line is left out. Raises UserError when another line is no epoch of a training.
    """
    try:
        content = read_content(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no history of a training ({getattr(error, 'strerror', None) or error})") from error
    rows, unreadable = parse_metrics(content[: content.rfind(b"\n") + 1])
    if unreadable:
        raise UserError(f"{path}: line {unreadable[0]} is not a JSON object; remove the line")
    for row in rows:
        if type(epoch := row.get("epoch")) is not int or not 0 <= epoch < 2**31:
            raise UserError(f"{path}: a line has {str(epoch)[:60]} for its epoch; remove the line")
    return rows


def rewind_metrics(path: Path, epochs: int) -> list[EpochRow]:
    """The rows of the first `epochs` epochs; later ones, which are trained again, are taken out of the file."""
    rows = read_metrics(path)
    kept = [row for row in rows if row["epoch"] <= epochs]
    if len(kept) < len(rows):
        path.unlink()
        for row in kept:
            append_metrics(path, row)
    return kept


class MetricsWriter:
    """Takes each epoch's row of a training to metrics.jsonl, its copy in a results folder, and TensorBoard if there."""

    def __init__(self, folder: Path, results: Path) -> None:
        """Raises UserError where the copy could not be written."""
        self.path, self.copy = folder / METRICS, results / TRAININGS / f"{folder.name}.jsonl"
        writable_folder(self.copy.parent)
        self._board = tensorboard(folder / "tensorboard")

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises UserError when a file cannot be written."""
        try:
            append_metrics(self.path, row)
            self._copy()
            sweep(self.copy.parent)
        except OSError as error:
            raise UserError(f"{error.filename or self.path}: cannot be written: {error.strerror or error}") from error
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, row["step"])

    def catch_up(self) -> None:
        """Make the copy anew, which an earlier process may have been killed ahead of."""
        if self.path.exists():
            with suppress(OSError):
                self._copy()

    def _copy(self) -> None:
        with atomic_path(self.copy) as temporary:
            temporary.write_bytes(self.path.read_bytes())

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def named_history(spec: str) -> tuple[str, list[EpochRow]]:
    """`spec`, the folder of a training or a file like its metrics.jsonl, as it is or as name=path -> (name, rows).

    Raises UserError when no epoch stands there.
    """
    name, _, place = ("", "", spec) if Path(spec).exists() else spec.rpartition("=")
    path = Path(place) / METRICS if Path(place).is_dir() else Path(place)
    rows = read_metrics(path)
    if not rows:
        raise UserError(f"{path}: no epochs of a training there; give the --out of one, or a copy of its {METRICS}")
    return name or Path(place).resolve().name.removesuffix(".jsonl"), rows


def finite_values(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of `key` in the epochs of `history` that have one that can be drawn."""
    values = (row.get(key) for row in history)
    return [float(v) for v in values if isinstance(v, int | float) and abs(v) < BEYOND]


def tensorboard(folder: Path) -> Any | None:
    """A TensorBoard writer (`add_scalar(name, value, step)`, `close()`), or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
