"""`--track`: what is done here, shown in the experiment tracker of one's lab as well.

A tracker is what an entry point of the group `dinobench.trackers` stands for: a function that takes the text after
`--track NAME=`, or "" where there is none, and gives a `Tracker`. The records on disk are the truth: a tracker that
fails is warned of, and nothing else stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from dinobench import console
from dinobench.errors import UserError
from dinobench.registry import find, said
from dinobench.types import RunRecord

GROUP = "dinobench.trackers"


class Tracker(Protocol):
    """Where scores and curves are shown. It is called in one process, in the order in which things happen."""

    def record(self, record: RunRecord) -> None:
        """A finished run. One that was finished before may come again, and is to be there once."""

    def epoch(self, training: str, row: Mapping[str, Any]) -> None:
        """An epoch of a training of that name, as metrics.jsonl has it: `epoch`, `step`, and numbers by name."""

    def close(self) -> None:
        """Nothing more comes."""


def check(specs: Sequence[str]) -> None:
    """Raises UserError for a tracker that nothing is known by, or that cannot be imported."""
    for spec in specs:
        find("tracker", _parts(spec)[0], GROUP)


def open_trackers(specs: Sequence[str]) -> Trackers:
    """The trackers that `--track NAME=TARGET` names. Raises UserError where one is unknown or its package missing."""
    opened = []
    for spec in specs:
        name, target = _parts(spec)
        try:
            opened.append((name, find("tracker", name, GROUP)(target)))
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"--track {name}: {said(error)}; pip install 'dinobench[{name}]'") from error
        except Exception as error:  # somebody else's code, or a server out of reach
            raise UserError(f"--track {spec}: cannot be opened ({said(error)})") from error
    return Trackers(opened)


class Trackers:
    """Several trackers as one, none of which can stop what it watches."""

    def __init__(self, opened: Sequence[tuple[str, Tracker]] = ()) -> None:
        self._opened, self._told = list(opened), set[str]()

    def records(self, records: Iterable[RunRecord]) -> None:
        """Finished runs, each told once."""
        for record in records:
            if record.run_id not in self._told:
                self._told.add(record.run_id)
                self._each(partial(_record, record=record), record.run_id)

    def epoch(self, training: str, row: Mapping[str, Any]) -> None:
        """An epoch of a training."""
        self._each(lambda tracker: tracker.epoch(training, row), f"epoch {row.get('epoch')} of {training}")

    def close(self) -> None:
        """Nothing more comes."""
        self._each(lambda tracker: tracker.close(), "what is left")

    def _each(self, tell: Callable[[Tracker], None], what: str) -> None:
        for name, tracker in self._opened:
            try:
                tell(tracker)
            except Exception as error:
                console.warn(f"--track {name}: {what} is not shown there ({said(error)})")


def _record(tracker: Tracker, record: RunRecord) -> None:
    tracker.record(record)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row is a number."""
    return {
        name: float(value) for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }  # fmt: skip


def scores(record: RunRecord) -> dict[str, float]:
    """A record's scores and the bounds of their intervals, by protocol and metric."""
    found: dict[str, float] = {}
    for name, measured in record.metrics.items():
        bounds = {"": measured.value, "_ci_low": measured.ci_low, "_ci_high": measured.ci_high}
        found |= {f"{record.protocol}/{name}{end}": value for end, value in bounds.items() if value is not None}
    return found


def facts(record: RunRecord) -> dict[str, Any]:
    """What a record's scores were measured with: settings as `set.name`, and what names the run."""
    named = {
        "model": record.checkpoint.name, "arch": record.checkpoint.arch, "method": record.checkpoint.method,
        "protocol": record.protocol, "profile": record.profile, "dataset": record.dataset, "seed": record.seed,
        "precision": record.precision, "config_hash": record.config_hash, "run_id": record.run_id,
        "weights_digest": record.checkpoint.weights_digest, "dataset_fingerprint": record.dataset_fingerprint,
    }  # fmt: skip
    return {**named, **{f"set.{name}": value for name, value in record.config.items()}}


def _parts(spec: str) -> tuple[str, str]:
    """`NAME=TARGET` -> (name, target)."""
    name, _, target = spec.partition("=")
    return name.strip(), target
