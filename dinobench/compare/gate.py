"""The gate: has a backbone got worse than a margin allows, or can these images not tell?

Each row of the baseline is tested against its counterpart on the primary metric, item by item, both ways. It passes
when a drop of the margin or more can be ruled out, fails when a drop of more than the margin is shown, and otherwise
the images are too few to tell. A row of the baseline that cannot be tested at all, because it has no counterpart, its
record cannot be read or its items are not the same, leaves the gate incomplete, which is no matter of images.

Which error is held at alpha: *failing* though no row has dropped by more than the margin happens with probability at
most alpha over all rows together (Holm's correction). *Passing* though any row has dropped by the margin or more also
happens with probability at most alpha, without a correction: the gate passes only when every row does, so that row
would have to pass too (an intersection-union test, Berger 1982, Technometrics 24).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from dinobench import lazy
from dinobench.compare.pair import aligned, scores
from dinobench.errors import UserError, unknown_name
from dinobench.results.comparability import higher_is_better, key, match, read_records, reasons
from dinobench.stats.paired_tests import POWER, PairedTest, bounds, holm, paired_test
from dinobench.types import RunRecord

with lazy.imports():
    from scipy import stats

PASS, FAIL, UNSURE, INCOMPLETE = "pass", "fail", "cannot tell", "incomplete"
EXIT_CODES = {PASS: 0, FAIL: 1, UNSURE: 3, INCOMPLETE: 4}  # 2 is bad input, as everywhere
UNTESTED = "not tested"  #: the verdict on a row with a counterpart that it cannot be held against


@dataclass(frozen=True)
class GateRow:
    """A row of the baseline and its counterpart, in the metric's unit.

    `change` is new - baseline, turned round where lower is better: below 0 is worse. `low` and `high` are its
    one-sided (1 - alpha) bounds; `p_pass` is against a drop of the margin or more, `p_fail` against a drop of at most
    the margin, corrected over all rows. `needed` is about how many items would do if nothing had changed.
    """

    model: str
    protocol: str
    profile: str
    dataset: str
    metric: str
    unit: str
    baseline: float
    new: float
    change: float
    verdict: str
    reason: str
    low: float | None = None
    high: float | None = None
    p_pass: float | None = None
    p_fail: float | None = None
    items: int = 0
    needed: int | None = None

    @property
    def name(self) -> str:
        return f"{self.model} · {self.protocol} · {self.profile} · {self.dataset}"


@dataclass(frozen=True)
class Unmatched:
    """A row on one side only, and what keeps the nearest one on the other apart, if there is one."""

    model: str
    protocol: str
    profile: str
    dataset: str
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.model} · {self.protocol} · {self.profile} · {self.dataset}"

    def __str__(self) -> str:
        return f"{self.name}: {self.why}" if self.why else self.name


@dataclass(frozen=True)
class GateReport:
    """Every row with its verdict. `vanished` rows of the baseline have no counterpart, `new` ones no baseline.

    `unread` are records of the baseline that cannot be read, one line each; `only` the patterns that rows had to match.
    """

    margin: float
    alpha: float
    rows: tuple[GateRow, ...]
    new: tuple[Unmatched, ...] = ()
    vanished: tuple[Unmatched, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    allow_missing: bool = False
    only: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Rows of the baseline without a counterpart, or that nobody can read."""
        return len(self.vanished) + len(self.unread)

    @property
    def verdict(self) -> str:
        """The gravest first: a row fails, a row could not be tested, images are too few; else all pass."""
        verdicts = {row.verdict for row in self.rows}
        if FAIL in verdicts:
            return FAIL
        if UNTESTED in verdicts or (self.missing and not self.allow_missing):
            return INCOMPLETE
        return UNSURE if UNSURE in verdicts else PASS

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        counts = Counter(row.verdict for row in self.rows)
        parts = (
            (counts[FAIL], "fail"),
            (counts[UNTESTED], "cannot be tested"),
            (counts[UNSURE], "cannot be told with this many items"),
            (len(self.vanished), "vanished"),
            (len(self.unread), "of the baseline cannot be read"),
            (len(self.new), "new"),
        )
        said = [f"{counts[PASS]} of {len(self.rows)} rows pass", *(f"{n} {what}" for n, what in parts if n)]
        return f"dinobench gate: {self.verdict} (margin {self.margin:g}, alpha {self.alpha:g}): {', '.join(said)}"


def gate(
    results: Path,
    baseline: Path,
    margin: float = 0.5,
    alpha: float = 0.05,
    allow_missing: bool = False,
    only: Sequence[str] = (),
) -> GateReport:
    """Test each row of `baseline` against its counterpart in `results`: same model name, comparable key.

    margin: the drop that is allowed, in the unit of the metric (percentage points for scores). alpha: see the head of
    this module. allow_missing: rows of the baseline without a counterpart do not keep the gate from passing. only:
    patterns (`knn`, `knn-ours-*`); rows on either side count when their protocol, profile, model, data set or run id
    matches one.

    Raises UserError for folders without records, values out of range, a pattern that nothing in the baseline matches,
    and when no row has a counterpart.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError(f"--margin {margin:g}: a number from 0 is needed, in the unit of the metric")
    if not 0 < alpha < 0.5:
        raise UserError(f"--alpha {alpha:g}: a number between 0 and 0.5 is needed")
    before, broken_before = read_records(baseline)
    after, broken_after = read_records(results)
    for pattern in only:
        if not any(_chosen(r, [pattern]) for r in before):
            names = sorted({name for r in before for name in (r.protocol, r.checkpoint.name, r.dataset)})
            raise unknown_name(f"--only pattern for {baseline}", pattern, names)
    before, after = ([r for r in found if _chosen(r, only)] for found in (before, after))
    matched = match(before, after, lambda r: (r.checkpoint.name, key(r)))
    vanished = tuple(_unmatched(r, after, "its counterpart differs in") for r in matched.only_a)
    new = tuple(_unmatched(r, before, "the baseline differs in") for r in matched.only_b)
    if not matched.pairs:
        raise UserError(f"{results} has no counterpart of any row of {baseline}, such as {vanished[0]}")
    rows = [_row(baseline, old, results, now, margin, alpha) for old, now in matched.pairs]
    return GateReport(
        margin, alpha, judged(rows, margin, alpha), new, vanished,
        unread=tuple(f"{path}: {reason}" for path, reason in broken_before),
        notes=(*matched.notes, *(f"{path}: left out: {reason}" for path, reason in broken_after)),
        allow_missing=allow_missing, only=tuple(only),
    )  # fmt: skip


def _chosen(record: RunRecord, only: Sequence[str]) -> bool:
    names = record.protocol, record.profile, record.checkpoint.name, record.dataset, record.run_id
    return not only or any(fnmatchcase(name, pattern) for name in names for pattern in only)


def _unmatched(record: RunRecord, others: Sequence[RunRecord], lead: str) -> Unmatched:
    """A row without a counterpart, and what keeps the nearest one of its model, protocol and data set apart."""
    row = Unmatched(record.checkpoint.name, record.protocol, record.profile, record.dataset)
    near = [r for r in others if (r.checkpoint.name, r.protocol) == (record.checkpoint.name, record.protocol)]
    near = [r for r in near if r.dataset == record.dataset] or near
    if not near:
        return row
    apart = min((reasons(record, other) for other in near), key=len)
    why = f"{lead} {'; '.join(apart)}" if apart else f"seed {record.seed}, precision {record.precision}"
    return replace(row, why=why)


def _row(baseline: Path, old: RunRecord, results: Path, now: RunRecord, margin: float, alpha: float) -> GateRow:
    """A row with its bounds and p values; the verdict waits for the other rows where it is a matter of chance."""
    metric = old.primary
    before, after = old.metrics[metric], now.metrics.get(metric)
    sign = 1 if higher_is_better(old, metric) else -1
    row = GateRow(
        now.checkpoint.name, now.protocol, now.profile, now.dataset, metric, before.unit, before.value, math.nan,
        math.nan, UNTESTED, f"{now.run_id} has no {metric} in {before.unit or 'numbers'}",
    )  # fmt: skip
    if after is None or after.unit != before.unit:
        return row
    row = replace(
        row, new=after.value, change=sign * (after.value - before.value), reason="no per-item scores to compare",
        items=after.n,
    )  # fmt: skip
    same = old.checkpoint.weights_digest == now.checkpoint.weights_digest
    try:
        items = aligned(results, now, baseline, old)
        pairs = scores(metric, items, f"{now.run_id} and its baseline") if items else None
    except UserError as error:
        return replace(row, reason=str(error))
    if pairs is None:
        return replace(row, verdict=PASS, reason="same weights, same score") if same and row.change == 0 else row
    new, base, clusters, _ = pairs
    if same and (new == base).all():
        return replace(row, verdict=PASS, change=0.0, low=0.0, high=0.0, reason="same weights, same score of each item")
    test = paired_test(new, base, clusters) if sign > 0 else paired_test(base, new, clusters)
    scale = 100 if after.unit == "%" else 1
    low, high = bounds(test, alpha)
    return replace(
        row, change=scale * test.mean, low=scale * low, high=scale * high, items=len(new),
        p_pass=test.p_above(-margin / scale), p_fail=test.p_below(-margin / scale),
        needed=_needed(test, margin / scale, alpha, len(new)),
    )  # fmt: skip


def _needed(test: PairedTest, margin: float, alpha: float, items: int) -> int | None:
    """About how many items would pass in 80 % of cases if nothing had changed, to two digits."""
    if margin <= 0 or not math.isfinite(test.error):
        return None
    times = (test.error * float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER)) / margin) ** 2
    wanted = max(1.0, items * times)
    digits = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return math.ceil(wanted / digits) * digits


def judged(rows: Sequence[GateRow], margin: float, alpha: float) -> tuple[GateRow, ...]:
    """The rows with their verdicts, p for failing corrected over those that are a matter of chance."""
    corrected = iter(holm([row.p_fail for row in rows if row.p_fail is not None]))
    return tuple(
        row if row.p_fail is None else _judged(replace(row, p_fail=next(corrected)), margin, alpha) for row in rows
    )


def _judged(row: GateRow, margin: float, alpha: float) -> GateRow:
    """The verdict of a row whose p for failing has been corrected."""
    assert row.p_pass is not None and row.p_fail is not None
    if row.p_fail <= alpha:
        return replace(row, verdict=FAIL, reason=f"worse by more than {margin:g} (p = {row.p_fail:.2g})")
    if row.p_pass <= alpha:
        return replace(row, verdict=PASS, reason=f"not worse by {margin:g} (p = {row.p_pass:.2g})")
    assert row.low is not None
    drop = f": it may be worse by {-row.low:.2f}" if math.isfinite(row.low) else ""
    more = f"; about {row.needed:,} would be needed" if row.needed and row.needed > row.items else ""
    return replace(row, verdict=UNSURE, reason=f"cannot tell with {row.items:,} items{drop}{more}")
