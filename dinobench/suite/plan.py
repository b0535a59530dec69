"""A suite's plan: every cell that it asks for, and what of it is done, to do, missing, or not for this model.

Nothing is computed for it but digests of weights and data: once, and then remembered by path, size and time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from dinobench.config import resolve_config, with_limit
from dinobench.data import plain_folder
from dinobench.data.embedded import EMBEDDED
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.registry import load
from dinobench.suite import standing
from dinobench.suite.cells import PENDING, Cell, Group, Plan, State
from dinobench.suite.file import RunSpec, Suite
from dinobench.suite.inputs import seed_of
from dinobench.suite.resources import together
from dinobench.suite.training.asked import TRAIN
from dinobench.suite.training.standing import look_at, planned
from dinobench.types import LoadOptions

__all__ = ["PENDING", "Cell", "Group", "Plan", "State", "cells_of", "groups_of", "plan"]

KEY = 10


def plan(suite: Suite, *, measure: str | None = None) -> Plan:
    """The plan as things stand now. `measure` names the device on which what no record tells is timed."""
    stopwatch = None
    if measure is not None:
        from dinobench.suite.measuring import Stopwatch

        stopwatch = Stopwatch(measure)
    looks = look_at(suite.trainings)
    cells = standing.of(suite, cells_of(suite), stopwatch, looks)
    waiting = Counter(cell.model for cell in cells if cell.state in PENDING)
    trainings = planned(suite.trainings, looks, waiting)
    if measure is not None:
        from dinobench.suite.training.measuring import Pace

        pace = Pace(measure)
        trainings = [pace(one) if one.pending and one.seconds is None else one for one in trainings]
    return Plan(suite, tuple(cells), tuple(groups_of(suite, cells)), tuple(trainings))


def cells_of(suite: Suite) -> list[Cell]:
    """Every cell in the order of the file; what two runs ask for alike is one."""
    found: dict[str, Cell] = {}
    for run in suite.runs:
        for cell in _cells(suite, run):
            found.setdefault(cell.key, cell)
    return list(found.values())


def _cells(suite: Suite, run: RunSpec) -> Iterator[Cell]:
    protocol, limit = load(run.protocol), run.limit or suite.limit
    for profile in run.profiles:
        label = with_limit(resolve_config(protocol, profile, run.settings), limit).profile
        for name in run.data or suite.data:
            spec = suite.spec_of(name)
            state, reason = (State.TODO, "") if run.data else _of_the_kind(suite, name, protocol.data)
            for seed in run.seeds:
                for model, reference in suite.models_of(run).items():
                    cell = Cell(
                        "", protocol.name, profile, run.settings, seed, model, reference, spec, run.tests, limit,
                        label, state, reason=reason, loading=suite.loading_of(model), compute=run.compute,
                    )  # fmt: skip
                    asked = protocol.name, label, seed, model, reference, spec, run.tests
                    key = digest(*asked, *filter(None, [cell.decisive]))[:KEY]
                    yield dataclasses.replace(cell, key=key)


def _of_the_kind(suite: Suite, name: str, kind: str) -> tuple[State, str]:
    """Whether one of [data] is for a run that names none: what is in no layout of its protocol is for others."""
    target = suite.data[name]
    try:
        other = target not in EMBEDDED.get(kind, {}) and plain_folder(suite.spec_of(name), kind) is not None
    except UserError:
        other = any(target in sets for sets in EMBEDDED.values())
    return (State.NOT_APPLICABLE, f"{name} is no data of the kind {kind!r}") if other else (State.TODO, "")


def groups_of(suite: Suite, cells: Sequence[Cell]) -> Iterator[Group]:
    """What is to do, by checkpoint and images; cells that ask for other numbers of devices are apart.

    So are those of other kinds of data, as an embedded name stands for other images in each. All of a model that the
    suite trains are one task, so that no other has to wait for the training.
    """
    shared: dict[tuple[object, ...], list[Cell]] = {}
    kinds = {name: load(name).data for name in {cell.protocol for cell in cells}}
    for cell in cells:
        if cell.state in PENDING:
            seed = seed_of(cell.reference, cell.loading, cell.seed)
            devices = suite.resources_of(cell.protocol).devices
            alike: tuple[object, ...] = cell.model, cell.reference, seed, cell.data, kinds[cell.protocol], devices
            if cell.model in suite.trainings:
                alike = cell.model, cell.reference, devices
            read = () if cell.loading == LoadOptions() else (cell.loading,)
            shared.setdefault((*alike, *read), []).append(cell)
    for key, members in shared.items():
        asked = [suite.resources_of(cell.protocol) for cell in members]
        if not all(cell.run_ids for cell in members):  # the weights aren't there yet
            asked.append(suite.resources_of(TRAIN))
        yield Group(digest(*key)[:KEY], tuple(members), together(asked))
