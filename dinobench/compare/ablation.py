"""Why two runs of one protocol differ, by experiment: run A again with one factor at a time as B has it.

What the single changes do not add up to is their interaction; what all of them together leave of the difference is due
to what was not changed, such as the data, library versions and the device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

from dinobench.compare.explain import Explanation
from dinobench.config import limit_of, settings_of
from dinobench.errors import UserError
from dinobench.registry import load
from dinobench.types import ComputeOptions, RunRecord

#: Minutes that the runs together may take unless the user allows more, judged by how long A took.
MINUTES = 10.0


@dataclass(frozen=True)
class Flip:
    """A factor as A and as B has it, and A's score with B's value; None where `note` says why it cannot stand alone."""

    name: str
    a: Any
    b: Any
    value: float | None
    note: str = ""


@dataclass(frozen=True)
class Ablation:
    """`base`: A run again; `together`: A with all flips at once; `a` and `b` as recorded. In the metric's unit."""

    metric: str
    a: float
    b: float
    base: float
    flips: tuple[Flip, ...]
    together: float | None

    def effect(self, flip: Flip) -> float | None:
        return None if flip.value is None else flip.value - self.base

    @property
    def interaction(self) -> float | None:
        """What all flips together do beyond the sum of the single ones that could be run."""
        if self.together is None:
            return None
        return self.together - self.base - sum(f.value - self.base for f in self.flips if f.value is not None)

    @property
    def left(self) -> float:
        """What remains between B and A with all flips: due to what was not changed."""
        return self.b - (self.base if self.together is None else self.together)


@dataclass(frozen=True)
class _Setup:
    """What a run is started with."""

    ckpt: str
    settings: Mapping[str, Any]
    seed: int
    precision: str


@dataclass(frozen=True)
class _Change:
    """One factor: its name, its values, and the setup that has B's."""

    name: str
    a: Any
    b: Any
    apply: Callable[[_Setup], _Setup]


def ablate(
    explanation: Explanation,
    *,
    data: str | None = None,
    ckpt: str | None = None,
    ckpt_b: str | None = None,
    device: str = "auto",
    out: Path | None = None,
    minutes: float = MINUTES,
    run: Callable[..., list[RunRecord]] | None = None,
) -> Ablation:
    """Run A's protocol on A's data and checkpoint with B's settings, seed, precision and weights, one at a time.

    data, ckpt, ckpt_b: where A's data set, A's and B's checkpoint are, when not where the records say. out: a results
    folder for the runs, by default one that is thrown away.

    Raises UserError when the two are of different protocols, nothing differs that could be changed, data or checkpoint
    are not those of A, or the runs would take longer than `minutes`.
    """
    a, b = explanation.a, explanation.b
    if a.protocol != b.protocol:
        raise UserError(f"--flip: {a.protocol} and {b.protocol} are different protocols: no change makes one the other")
    if not explanation.metric:
        raise UserError(f"--flip: {a.primary}, the primary metric of {a.run_id}, is not in {b.run_id}")
    known = settings_of(next(iter(load(a.protocol).profiles.values())))  # an old record may hold more
    settings = {name: _typed(value) for name, value in a.config.items() if name in known}
    start = _Setup(ckpt or a.checkpoint.path, settings, a.seed, a.precision)
    changes = _changes(explanation, ckpt_b)
    if not changes:
        raise UserError(
            "--flip: the two differ in no setting, seed, precision or weights: nothing can be changed in turn"
        )
    expected = a.duration_s * (len(changes) + 2) / 60
    if expected > minutes:
        raise UserError(
            f"--flip: {len(changes) + 2} runs of {a.duration_s:,.0f} s each, as {a.run_id} took, are about "
            f"{expected:,.0f} minutes; allow them with --minutes {expected:.0f}"
        )
    if run is None:
        from dinobench import runner

        run = runner.run
    folder: AbstractContextManager[Any] = nullcontext(out) if out else tempfile.TemporaryDirectory()
    with folder as target:
        score = partial(_score, run, explanation, data or a.dataset, device, target)
        base = _base(a, score, start)
        single = tuple(_flipped(c, start, score) for c in changes)
        everything = reduce(lambda setup, change: change.apply(setup), changes, start)
        together = _attempt(score, everything)[0] if len(changes) > 1 else single[0].value
    return Ablation(
        explanation.metric,
        a.metrics[explanation.metric].value,
        b.metrics[explanation.metric].value,
        base,
        single,
        together,
    )


def _changes(explanation: Explanation, ckpt_b: str | None) -> list[_Change]:
    """The factors that a run can be started with, of those that differ."""
    a, b = explanation.a, explanation.b
    known = settings_of(next(iter(load(a.protocol).profiles.values())))
    changes = []
    for d in explanation.differences:
        if d.name in known and (d.name in b.config or known[d.name].added):
            changes.append(_setting(d.name, d.a, d.b if d.name in b.config else known[d.name].default))
    if a.checkpoint.weights_digest != b.checkpoint.weights_digest and (
        ckpt_b or a.checkpoint.path != b.checkpoint.path
    ):
        where = ckpt_b or b.checkpoint.path
        changes.append(_Change("weights", a.checkpoint.name, b.checkpoint.name, lambda s: replace(s, ckpt=where)))
    if a.seed != b.seed:
        changes.append(_Change("seed", a.seed, b.seed, lambda s: replace(s, seed=b.seed)))
    if a.precision != b.precision:
        changes.append(_Change("precision", a.precision, b.precision, lambda s: replace(s, precision=b.precision)))
    return changes


def _setting(name: str, a: Any, b: Any) -> _Change:
    return _Change(name, a, b, lambda s: replace(s, settings={**s.settings, name: _typed(b)}))


def _typed(value: Any) -> Any:
    """A recorded value as a setting takes it."""
    return "none" if value == [] else value


def _score(
    run: Callable[..., list[RunRecord]], explanation: Explanation, data: str, device: str, out: Any, setup: _Setup
) -> tuple[float, RunRecord]:
    profile = explanation.a.profile.partition("+")[0]
    known = load(explanation.a.protocol).profiles
    done = run(
        explanation.a.protocol, setup.ckpt, data, profile=profile if profile in known else None,
        settings=setup.settings, seed=setup.seed, out=out,
        **({} if (limit := limit_of(explanation.a.profile)) is None else {"limit": limit}),
        compute=ComputeOptions(device=device, precision=setup.precision),
    )  # fmt: skip
    if not done:
        raise UserError("not applicable to this backbone")
    if explanation.metric not in done[0].metrics:
        raise UserError(f"gives no {explanation.metric}")
    return done[0].metrics[explanation.metric].value, done[0]


def _base(a: RunRecord, score: Callable[[_Setup], tuple[float, RunRecord]], start: _Setup) -> float:
    """A's score anew. Raises UserError when its checkpoint or data cannot be found or are not the recorded ones."""
    try:
        value, again = score(start)
    except UserError as error:
        raise UserError(f"--flip: {error} (--ckpt and --data say where A's checkpoint and data set are)") from error
    if again.checkpoint.weights_digest != a.checkpoint.weights_digest:
        raise UserError(f"--flip: {start.ckpt} has other weights than {a.run_id} was run with; name A's with --ckpt")
    if again.dataset_fingerprint != a.dataset_fingerprint:
        raise UserError(f"--flip: the data set is not the one that {a.run_id} was run on; name A's with --data")
    return value


def _flipped(change: _Change, start: _Setup, score: Callable[[_Setup], tuple[float, RunRecord]]) -> Flip:
    value, note = _attempt(score, change.apply(start))
    return Flip(change.name, change.a, change.b, value, note)


def _attempt(score: Callable[[_Setup], tuple[float, RunRecord]], setup: _Setup) -> tuple[float | None, str]:
    """The score; or None and why: a value of B can be senseless without another one of B's."""
    try:
        return score(setup)[0], ""
    except UserError as error:
        return None, str(error)
