"""What a suite's plan is made of: cells, and groups of them that are one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dinobench.errors import UserError
from dinobench.suite.file import Compute, Resources, Suite
from dinobench.suite.training.standing import Planned
from dinobench.types import LoadOptions


class State(StrEnum):
    """Where a cell stands."""

    DONE = "done"
    CACHED = "features cached"
    TODO = "to do"
    NOT_APPLICABLE = "not applicable"
    MISSING = "input missing"
    FAILED = "failed"


#: What `suite run` has to do. What failed is for `suite retry`.
PENDING = (State.CACHED, State.TODO)


@dataclass(frozen=True)
class Cell:
    """One call of `dinobench run`: a protocol as configured, a model, a data set (or others' test images for it).

    `key` is a digest of what was asked, 10 hex digits. `data` and `tests` are as `--data` and `--test` take them;
    `label` is the profile as records call it, with what was changed. `run_ids` are empty where the weights or data
    that decide them couldn't be read, and several where there are several `tests`. `seconds` is how long it may take,
    None where nothing tells, and `basis` where that is known from. `reason` is, of a missing input, a line for each.
    `loading` says how the model is read, and `compute` how the cell is computed.
    """

    key: str
    protocol: str
    profile: str | None
    settings: Mapping[str, Any]
    seed: int
    model: str
    reference: str
    data: str
    tests: tuple[str, ...]
    limit: int | None
    label: str
    state: State = State.TODO
    run_ids: tuple[str, ...] = ()
    reason: str = ""
    seconds: float | None = None
    basis: str = "unknown"
    loading: LoadOptions = field(default_factory=LoadOptions)
    compute: Compute = field(default_factory=Compute)

    @property
    def decisive(self) -> dict[str, Any]:
        """What of `loading` and `compute` decides the model or a number, where it isn't the usual.

        >>> how = Compute(precision="bf16", workers=2)
        >>> Cell("", "knn", None, {}, 0, "a", "a.pth", "digits", (), None, "", compute=how).decisive
        {'precision': 'bf16'}
        """
        read = {name: value for name, value in vars(self.loading).items() if name != "trust_repo"}
        given = {**read, "precision": self.compute.precision, "skip_broken": self.compute.skip_broken}
        usual = {**vars(LoadOptions()), **vars(Compute())}
        return {name: value for name, value in given.items() if value != usual[name]}

    @property
    def ckpt(self) -> str:
        """The model as `--ckpt` takes it."""
        return f"{self.model}={self.reference}"

    @property
    def dataset(self) -> str:
        """What tables call the data set: the name given to it, else the end of its path."""
        name, equals, _ = self.data.partition("=")
        return name if equals and "/" not in name else self.data.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Group:
    """Cells that share checkpoint and images, and so their features: one task, with what it asks a cluster for."""

    key: str
    cells: tuple[Cell, ...]
    resources: Resources


@dataclass(frozen=True)
class Plan:
    """Every cell of a suite in the order of its file, groups of those that are to do, and the trainings of [train]."""

    suite: Suite
    cells: tuple[Cell, ...]
    groups: tuple[Group, ...]
    trainings: tuple[Planned, ...] = ()

    @property
    def pending(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.state in PENDING]

    @property
    def seconds(self) -> float:
        """How long all that is to do takes on one device, as far as it is known."""
        trainings = sum(training.seconds or 0.0 for training in self.pending_trainings)
        return trainings + sum(cell.seconds or 0.0 for cell in self.pending)

    @property
    def pending_trainings(self) -> list[Planned]:
        """Those that cells wait for."""
        return [training for training in self.trainings if training.pending]

    @property
    def unknown(self) -> int:
        """How many cells are to do that nothing tells the duration of."""
        return sum(cell.seconds is None for cell in self.pending)

    def count(self) -> dict[State, int]:
        """Cells by state, those states that there are."""
        return {state: n for state in State if (n := sum(cell.state is state for cell in self.cells))}

    def missing(self) -> list[str]:
        """What is missing, a line each, with its place in the file."""
        reasons = [cell.reason for cell in self.cells if cell.state is State.MISSING]
        return list(dict.fromkeys(line for reason in reasons for line in reason.split("\n")))

    def refuse_above(self, hours: float) -> None:
        """Raises UserError where what is to do and of known duration takes longer together."""
        if self.seconds > 3600 * hours:
            raise UserError(
                f"{self.suite.source.shown}: {self.seconds / 3600:.1f} h are to do, above --max-hours {hours:g}; "
                "raise it, or leave out runs, models or seeds"
            )
