"""The gate: has a backbone got worse than a margin allows, or can these images not tell?

Each row of the baseline is tested against its counterpart on the primary metric, item by item, both ways. It passes
when a drop of the margin or more can be ruled out, fails when a drop of more than the margin is shown, and otherwise
the images are too few to tell.

Which error is held at alpha: *failing* though no row has dropped by more than the margin happens with probability at
most alpha over all rows together (Holm's correction). *Passing* though any row has dropped by the margin or more also
happens with probability at most alpha, without a correction: the gate passes only when every row does, so that row
would have to pass too (an intersection-union test, Berger 1982, Technometrics 24).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy import stats

from dinobench.compare.pair import aligned, scores
from dinobench.errors import UserError
from dinobench.results.comparability import higher_is_better, key, match, read_results, reasons
from dinobench.stats.paired_tests import POWER, PairedTest, bounds, holm, paired_test
from dinobench.types import RunRecord

PASS, FAIL, UNSURE = "pass", "fail", "cannot tell"
EXIT_CODES = {PASS: 0, FAIL: 1, UNSURE: 3}  # 2 is bad input, as everywhere


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
class GateReport:
    """Every row with its verdict. `vanished` rows of the baseline have no counterpart, `new` ones no baseline."""

    margin: float
    alpha: float
    rows: tuple[GateRow, ...]
    new: tuple[str, ...]
    vanished: tuple[str, ...]
    notes: tuple[str, ...] = ()
    allow_missing: bool = False

    @property
    def verdict(self) -> str:
        """Fails when any row does; passes when all do and none has vanished, unless that is allowed."""
        verdicts = {row.verdict for row in self.rows}
        if FAIL in verdicts:
            return FAIL
        return UNSURE if UNSURE in verdicts or (self.vanished and not self.allow_missing) else PASS

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        counts = {v: sum(row.verdict == v for row in self.rows) for v in EXIT_CODES}
        parts = [f"{counts[PASS]} of {len(self.rows)} rows pass", f"{counts[FAIL]} fail" if counts[FAIL] else ""]
        parts += [f"{counts[UNSURE]} cannot be told with this many items" if counts[UNSURE] else ""]
        parts += [f"{len(self.vanished)} vanished" if self.vanished else "", f"{len(self.new)} new" if self.new else ""]
        allowed = f"margin {self.margin:g}, alpha {self.alpha:g}"
        return f"dinobench gate: {self.verdict} ({allowed}): {', '.join(filter(None, parts))}"

    def markdown(self) -> str:
        """The report as GitHub renders it, what failed first."""
        order = [FAIL, UNSURE, PASS]
        bound = f"{100 * (1 - self.alpha):g} %"
        lines = [
            f"### {self.summary}", "",
            f"| verdict | model | protocol | data | metric | baseline | new | change | {bound} bounds | why |",
            "|---|---|---|---|---|---:|---:|---:|---:|---|",
        ]  # fmt: skip
        for row in sorted(self.rows, key=lambda r: order.index(r.verdict)):
            limits = "" if row.low is None else f"{row.low:+.2f} … {row.high:+.2f}"
            cells = [
                f"**{row.verdict}**", row.model, f"{row.protocol} {row.profile}", row.dataset,
                f"{row.metric} ({row.unit})", f"{row.baseline:.2f}", f"{row.new:.2f}", f"{row.change:+.2f}", limits,
                row.reason,
            ]  # fmt: skip
            lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
        for title, entries in (("Vanished rows", self.vanished), ("New rows", self.new), ("Notes", self.notes)):
            if entries:
                lines += ["", f"**{title}**", "", *(f"- {_cell(entry)}" for entry in entries)]
        lines += [
            "", "Below 0 is worse. The chance that a build fails though no row has dropped by more than "
            f"{self.margin:g}, and the chance that it passes though one has, are at most {self.alpha:g} each.",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def annotations(self) -> list[str]:
        """Workflow commands of GitHub Actions: an error per failed row, a warning per row that cannot be told."""
        levels = {FAIL: "error", UNSURE: "warning"}
        lines = [(levels[r.verdict], f"{r.name}: {r.reason}") for r in self.rows if r.verdict in levels]
        lines += [("notice" if self.allow_missing else "warning", f"vanished: {entry}") for entry in self.vanished]
        return [f"::{level} title=dinobench gate::{_escaped(text)}" for level, text in lines]


def _cell(text: str) -> str:
    """Characters that would end a cell of a table or start markup."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _escaped(text: str) -> str:
    """As GitHub's toolkit escapes the message of a workflow command (actions/toolkit, core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def gate(
    results: Path, baseline: Path, margin: float = 0.5, alpha: float = 0.05, allow_missing: bool = False
) -> GateReport:
    """Test each row of `baseline` against its counterpart in `results`: same model name, comparable key.

    margin: the drop that is allowed, in the unit of the metric (percentage points for scores). alpha: see the head of
    this module. allow_missing: rows of the baseline without a counterpart do not keep the gate from passing.

    Raises UserError for folders without records, values out of range, and when no row has a counterpart.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError(f"--margin {margin:g}: a number from 0 is needed, in the unit of the metric")
    if not 0 < alpha < 0.5:
        raise UserError(f"--alpha {alpha:g}: a number between 0 and 0.5 is needed")
    before, broken_before = read_results(baseline)
    after, broken_after = read_results(results)
    matched = match(before, after, lambda r: (r.checkpoint.name, key(r)))
    vanished = tuple(_without_counterpart(r, after, "its counterpart differs in") for r in matched.only_a)
    new = tuple(_without_counterpart(r, before, "the baseline differs in") for r in matched.only_b)
    if not matched.pairs:
        raise UserError(f"{results} has no counterpart of any row of {baseline}, such as {vanished[0]}")
    rows = [_row(baseline, old, results, now, margin, alpha) for old, now in matched.pairs]
    broken = [f"{path}: left out: {reason}" for path, reason in [*broken_before, *broken_after]]
    return GateReport(
        margin, alpha, judged(rows, margin, alpha), new, vanished, (*matched.notes, *broken), allow_missing
    )


def _without_counterpart(record: RunRecord, others: Sequence[RunRecord], lead: str) -> str:
    """A row without a counterpart, and what keeps the nearest one of its model, protocol and data set apart."""
    name = f"{record.checkpoint.name} · {record.protocol} · {record.profile} · {record.dataset}"
    near = [r for r in others if (r.checkpoint.name, r.protocol) == (record.checkpoint.name, record.protocol)]
    near = [r for r in near if r.dataset == record.dataset] or near
    if not near:
        return name
    apart = min((reasons(record, other) for other in near), key=len)
    return f"{name}: {lead} {'; '.join(apart)}" if apart else f"{name}: seed {record.seed}, {record.precision}"


def _row(baseline: Path, old: RunRecord, results: Path, now: RunRecord, margin: float, alpha: float) -> GateRow:
    """A row with its bounds and p values; the verdict waits for the other rows where it is a matter of chance."""
    metric = old.primary
    before, after = old.metrics[metric], now.metrics[metric]
    sign = 1 if higher_is_better(old, metric) else -1
    row = GateRow(
        now.checkpoint.name, now.protocol, now.profile, now.dataset, metric, after.unit, before.value, after.value,
        sign * (after.value - before.value), UNSURE, "no per-item scores to compare", items=after.n,
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
    more = f"; about {row.needed:,} would be needed" if row.needed and row.needed > row.items else ""
    return replace(row, verdict=UNSURE, reason=f"cannot tell with {row.items:,} items{more}")


def publish(report: GateReport, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Append the Markdown to the file that GITHUB_STEP_SUMMARY names; the lines for stdout where Actions runs us.

    Raises UserError when that file cannot be written.
    """
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(path, "a", encoding="utf-8", newline="\n") as file:
                file.write(report.markdown() + "\n")
        except OSError as error:
            raise UserError(f"{path} (GITHUB_STEP_SUMMARY): cannot be written: {error.strerror or error}") from error
    return report.annotations() if environ.get("GITHUB_ACTIONS") else []
