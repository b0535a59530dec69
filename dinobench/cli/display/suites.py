"""How suites are shown: their plans, and those that there are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dinobench import console
from dinobench.cli.display import layout
from dinobench.suite import builtin
from dinobench.suite.cells import PENDING, Cell, Plan, State
from dinobench.suite.file import Compute

if TYPE_CHECKING:
    from dinobench.suite.cells import Group
    from dinobench.suite.training import Planned

UNKNOWN = "unknown"


def plan(found: Plan) -> None:
    """A row for every cell, and how much of it there is to do."""
    seeds = {c.seed for c in found.cells} - {0}
    precisions = {c.compute.precision for c in found.cells} - {Compute.precision}
    more = [*(["seed"] if seeds else []), *(["precision"] if precisions else [])]
    columns = ["state", "protocol", "profile", "data", *more, "model", "time", "why"]
    rows = [
        [
            cell.state, cell.protocol, cell.label, " ".join((cell.dataset, *cell.tests)),
            *([str(cell.seed)] if seeds else []), *([cell.compute.precision] if precisions else []), cell.model,
            _time(cell), _why(cell),
        ]
        for cell in found.cells
    ]  # fmt: skip
    layout.table("", columns, rows, right=["seed", "time"])
    if found.trainings:
        console.text("")
        rows = [[t.training.name, t.training.method, _epochs(t), _training_time(t), _basis(t)] for t in found.trainings]
        layout.table("", ["training", "method", "epochs", "time", "why"], rows, right=["epochs", "time"])
    console.text("")
    console.text(layout.prose(summary(found)))
    if devices := [group.resources.devices for group in found.groups if group.resources.devices > 1]:
        console.text(layout.prose(
            f"{len(devices):,} of the tasks ask for {_range(devices)} devices at once: here `suite run` gives them as "
            "many as there are, a CPU one process, and --launcher slurm all"
        ))  # fmt: skip


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(most) if least == most else f"{least} to {most}"


def summary(found: Plan) -> str:
    """How many cells stand where, and how long what is to do takes.

    On one device; where nothing tells how long a cell takes, it is counted as unknown.
    """
    states = ", ".join(f"{n:,} {state}" for state, n in found.count().items())
    total = f"{len(found.cells):,} cell{'s' if len(found.cells) != 1 else ''}: {states}"
    if not found.pending:
        return f"{total}; nothing to do"
    tasks = f"{len(found.groups):,} task{'s' if len(found.groups) != 1 else ''}"
    trainings = found.pending_trainings
    counts = {"training": sum(t.seconds is None for t in trainings), "cell": found.unknown}
    known = hours(found.seconds) if sum(counts.values()) < len(found.pending) + len(trainings) else ""
    some = " and ".join(f"{n:,} {what}{'s' if n != 1 else ''}" for what, n in counts.items() if n)
    rest = f"{some} of unknown duration" if some else ""
    return f"{total}; {tasks}, {' and '.join(filter(None, [known, rest]))} on one device"


def _epochs(planned: Planned) -> str:
    return f"{planned.look.epochs:,} of {planned.look.total:,}"


def _training_time(planned: Planned) -> str:
    if not planned.pending and not planned.look.done:
        return ""
    return UNKNOWN if planned.seconds is None else hours(planned.seconds)


def _basis(planned: Planned) -> str:
    """Of one that is to do what its time is known from."""
    if planned.look.done:
        return "done"
    if not planned.pending:
        return "no cell waits for it"
    return planned.basis if planned.seconds is not None else ""


def hours(seconds: float) -> str:
    """
    >>> hours(0.4), hours(75), hours(5400), hours(360000)
    ('< 1 s', '1 min 15 s', '1 h 30 min', '100 h')
    """
    if seconds < 1:
        return "< 1 s"
    minutes, rest = divmod(round(seconds), 60)
    whole, left = divmod(minutes, 60)
    parts = [(whole, "h"), (left, "min"), (rest, "s")]
    first = next(i for i, (n, _) in enumerate(parts) if n)
    shown = parts[first : first + (1 if whole >= 10 else 2)]
    return " ".join(f"{n} {unit}" for n, unit in shown if n)


def _time(cell: Cell) -> str:
    if cell.state not in (*PENDING, State.DONE, State.FAILED):
        return ""
    return UNKNOWN if cell.seconds is None else hours(cell.seconds)


def _why(cell: Cell) -> str:
    """What there is to say of a cell: of missing inputs their places, as what is missing is told below the table."""
    if cell.state is State.MISSING:
        return ", ".join(line.partition(": ")[0] for line in cell.reason.split("\n"))
    known_from = cell.basis if cell.state in PENDING and cell.seconds is not None else ""
    return "; ".join(filter(None, [cell.reason, known_from]))


def plan_json(found: Plan) -> str:
    """The plan for programs: cells with all that decides them, tasks with the keys of theirs."""
    states = {state.value: n for state, n in found.count().items()}
    cells = [{**dataclasses.asdict(cell), "settings": dict(cell.settings)} for cell in found.cells]
    whole = {
        "suite": found.suite.name, "out": str(found.suite.out), "states": states, "seconds": found.seconds,
        "unknown": found.unknown, "cells": cells, "tasks": _tasks(found.groups),
        **({"scale": found.suite.scale} if found.suite.scale else {}),
        **({"trainings": [_training(one) for one in found.trainings]} if found.trainings else {}),
    }  # fmt: skip
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _tasks(groups: Sequence[Group]) -> list[dict[str, object]]:
    return [
        {"key": g.key, "cells": [c.key for c in g.cells], "resources": dataclasses.asdict(g.resources)} for g in groups
    ]


def _training(planned: Planned) -> dict[str, object]:
    told = dataclasses.asdict(planned.training)
    told |= {"epochs": planned.look.epochs, "of": planned.look.total, "done": planned.look.done}
    return told | {"waiting": planned.waiting, "seconds": planned.seconds, "basis": planned.basis}


def built_in() -> None:
    """The built-in suites with what they are."""
    layout.table("", ["suite", "what it is"], [[name, builtin.summary_of(name)] for name in builtin.names()])
    console.note("`dinobench suite show NAME` prints one, to copy and change")
