"""Where each cell of a plan stands, told from records, failures and the cache of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dinobench import console
from dinobench.config import resolve_config
from dinobench.data.transforms import fitted
from dinobench.errors import UserError
from dinobench.evaluations import Evaluation, evaluations
from dinobench.features.entries import entry_of
from dinobench.files import cache_root
from dinobench.hashing import digest
from dinobench.registry import load
from dinobench.results.known_runs import Known
from dinobench.results.records import read_all
from dinobench.results.vouched import checked
from dinobench.suite.cells import PENDING, Cell, State
from dinobench.suite.estimates import Estimates, Wanted
from dinobench.suite.file import Suite
from dinobench.suite.inputs import Inputs
from dinobench.suite.training.standing import Look, stand_in
from dinobench.suite.work import failures
from dinobench.types import RunRecord

#: The folder of failures in the results, and what is said there where a model turned out to lack something.
FAILED, LACKS = "failed", "not applicable"
#: (seconds or None, where that is known from) of a cell, of which one of its evaluations is given.
Measure = Callable[[Cell, Evaluation], tuple[float | None, str]]
#: What a cell evaluates, by run id, or what is missing for it.
Found = dict[str, Evaluation] | str


def of(
    suite: Suite,
    cells: Sequence[Cell],
    measure: Measure | None = None,
    looks: Mapping[str, Look | UserError] | None = None,
) -> list[Cell]:
    """The cells, each with its state, its run ids where its weights and data are known, and how long it may take.

    `measure` is asked for durations that no record tells. `looks`: how far the suite's trainings are, by model.
    """
    looks = {} if looks is None else looks
    found = _Lookup(suite, [cell for cell in cells if cell.state is State.TODO], looks).evaluations()
    records = _Records(suite, [run_id for some in found.values() if not isinstance(some, str) for run_id in some])
    placed = [_placed(suite, cell, found[cell.key], records) if cell.key in found else cell for cell in cells]
    if measure is not None:
        placed = [_measured(suite, cell, found.get(cell.key), measure, looks) for cell in placed]
    return [_untrained(suite, cell) if _is_untrained(looks, cell.model) else cell for cell in placed]


def _is_untrained(looks: Mapping[str, Look | UserError], model: str) -> bool:
    """Whether the weights of a model aren't there yet: what is known of it is known by another of its architecture."""
    seen = looks.get(model)
    return isinstance(seen, Look) and not seen.done


def _untrained(suite: Suite, cell: Cell) -> Cell:
    first = suite.trainings[cell.model].first if cell.state in PENDING else ""
    return dataclasses.replace(cell, run_ids=(), reason="; ".join(filter(None, [first, cell.reason])))


def _placed(suite: Suite, cell: Cell, found: Found, records: _Records) -> Cell:
    if isinstance(found, str):
        return dataclasses.replace(cell, state=State.MISSING, reason=found)
    ids = tuple(found)
    cell = dataclasses.replace(cell, run_ids=ids)
    done = [r for run_id in ids if (r := records.done(run_id, cell.compute.skip_broken)) is not None]
    if len(done) == len(ids):
        taken = sum(r.duration_s for r in done)
        return dataclasses.replace(cell, state=State.DONE, seconds=taken, basis="its own record")
    if lacks := sorted({lack for e in found.values() for lack in e.lacks()}):
        return dataclasses.replace(cell, state=State.NOT_APPLICABLE, reason=f"no {', '.join(lacks)}")
    failure = _failure(suite, cell)
    if failure and failure[0] == LACKS:
        return dataclasses.replace(cell, state=State.NOT_APPLICABLE, reason=failure[1])
    finished = {record.run_id for record in done}
    pending = [e for run_id, e in found.items() if run_id not in finished]
    wanted = {w.key: w for e in pending for w in _wanted(e, cell.compute.no_cache)}
    lacking = [w for w in wanted.values() if not w.complete]
    seconds, basis = records.estimates.of(pending, lacking)
    if failure:
        state, reason = State.FAILED, ": ".join(filter(None, failure))
    else:
        state = State.CACHED if wanted and not lacking else State.TODO
        reason = records.why(ids) or (f"{len(done)} of {len(ids)} done" if done else "")
    return dataclasses.replace(cell, state=state, reason=reason, seconds=seconds, basis=basis)


def _measured(
    suite: Suite, cell: Cell, found: Found | None, measure: Measure, looks: Mapping[str, Look | UserError]
) -> Cell:
    if cell.state not in PENDING or cell.seconds is not None or not isinstance(found, dict):
        return cell
    timed = cell
    if _is_untrained(looks, cell.model):
        timed = dataclasses.replace(cell, reference=str(stand_in(suite.trainings[cell.model])))
    seconds, basis = measure(timed, next(iter(found.values())))
    return dataclasses.replace(cell, seconds=seconds, basis=basis)


def _wanted(evaluation: Evaluation, no_cache: bool = False) -> Iterator[Wanted]:
    """The features that an evaluation says it will ask for; with `no_cache` none of them is there."""
    root, backbone = cache_root() / "features", evaluation.backbone
    for split, request in evaluation.requests():
        folder = entry_of(root, evaluation.precision, backbone, split, request).folder
        transform = fitted(request, backbone, split).transform
        complete = not no_cache and (folder / "complete.json").exists()
        yield Wanted(folder.name, complete, backbone.info.arch, split, transform)


def _failure(suite: Suite, cell: Cell) -> tuple[str, str] | None:
    """(its kind, what was said) where a cell has failed and `suite run` leaves it to `suite retry`.

    What was stopped goes on, and what was refused is tried again: its input may have been mended since.
    """
    failed = failures.read(suite.out / FAILED / f"{cell.key}.json")
    if failed is None or failed.kind is failures.Kind.INPUT or failed.again(suite.retries):
        return None
    return failed.kind, failed.message


class _Records:
    """The records of the suite's folder: those that are done, and what others say of durations."""

    def __init__(self, suite: Suite, wanted: Sequence[str]) -> None:
        every, broken = read_all(suite.out)
        by_id = {record.run_id: record for record in every}
        sound, contradicted = checked(suite.out, [by_id[run_id] for run_id in dict.fromkeys(wanted) if run_id in by_id])
        for path, reason in (*broken, *contradicted):
            console.warn(f"{path}: not taken for a finished run: {reason}")
        self._sound: dict[str, RunRecord] = {r.run_id: r for r in sound}
        self.estimates = Estimates(every)

    def done(self, run_id: str, skip_broken: bool) -> RunRecord | None:
        """The record of a run that is finished; one that leaves out images is that for who allows it."""
        record = self._sound.get(run_id)
        return record if record is not None and (skip_broken or not record.broken_images) else None

    def why(self, ids: Sequence[str]) -> str:
        """Why a record that there is doesn't count: a number without some images is no answer to who allowed none."""
        left_out = sum(r.broken_images for run_id in ids if (r := self._sound.get(run_id)) is not None)
        return f"its record leaves out {left_out} broken images" if left_out else ""


class _Lookup:
    """From cells to what they evaluate: every data set, model and configuration is looked up once."""

    def __init__(
        self, suite: Suite, cells: Sequence[Cell], looks: Mapping[str, Look | UserError] | None = None
    ) -> None:
        self._suite, self._inputs, self._looks = suite, Inputs(), looks or {}
        self._sharing: dict[tuple[Any, ...], list[Cell]] = {}
        self._protocols = {name: load(name) for name in {cell.protocol for cell in cells}}
        for cell in cells:
            shared = cell.protocol, cell.label, cell.data, cell.tests, cell.seed, cell.compute.precision
            self._sharing.setdefault(shared, []).append(cell)

    def evaluations(self) -> dict[str, Found]:
        """What each cell evaluates, by its key, or what it misses: lines with their places in the file."""
        found: dict[str, Found] = {}
        for cells in console.progress(self._sharing.values(), "Looking up data and models"):
            models = {cell.key: self._model(cell) for cell in cells}
            lacking = {key: error for key, error in models.items() if isinstance(error, UserError)}
            lines = {c.key: [self._missing(c, "model", lacking[c.key])] for c in cells if c.key in lacking}
            wanted: list[Evaluation] = []
            try:
                wanted = self._of_all(cells[0], [m for m in models.values() if isinstance(m, Known)])
            except UserError as error:
                for cell in cells:
                    lines.setdefault(cell.key, []).append(self._missing(cell, "data", error))
            for cell in cells:
                own = {e.run_id: e for e in wanted if e.backbone.info.name == cell.model}
                found[cell.key] = "\n".join(lines[cell.key]) if cell.key in lines else own
        return found

    def _model(self, cell: Cell) -> Known | UserError:
        """What the cell's reference leads to; of a model yet to be trained one that differs in its weights alone."""
        if isinstance(seen := self._looks.get(cell.model), UserError):
            return seen
        if not _is_untrained(self._looks, cell.model):
            return self._inputs.model(cell.model, cell.reference, cell.loading, cell.seed)
        known = self._inputs.model("untrained", str(stand_in(self._suite.trainings[cell.model])), cell.loading, 0)
        if isinstance(known, UserError):
            return known
        weights = digest("untrained", cell.model)
        return Known(dataclasses.replace(known.info, name=cell.model, weights_digest=weights), known.capabilities)

    def _missing(self, cell: Cell, what: str, error: UserError) -> str:
        if what == "model":
            return self._suite.missing((what, cell.model), cell.reference, error)
        return self._suite.missing((what, cell.data), cell.data.partition("=")[2] or cell.data, error)

    def _of_all(self, cell: Cell, models: Sequence[Any]) -> list[Evaluation]:
        """What cells that differ in their models alone evaluate. Raises UserError where there are no such data."""
        protocol = self._protocols[cell.protocol]
        resolved = resolve_config(protocol, cell.profile, cell.settings)
        sets = self._inputs.data(cell.data, protocol.data, cell.tests)
        if isinstance(sets, UserError):
            raise sets
        precision = cell.compute.precision
        return evaluations([(protocol, resolved)], {protocol.data: sets}, models, cell.seed, precision, cell.limit)
