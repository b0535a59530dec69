"""A pairing as files: LaTeX and Markdown with the primary metrics, CSV and JSON with every metric."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator

from dinobench.compare.pair import MetricPair, Pairing, PairResult
from dinobench.compare.writers import csv_text, finite, latex_float, latex_row, latex_text, markdown_text

#: Of the CSV: one row a metric of a test, so that the columns are the same whatever is compared.
CSV_COLUMNS = (
    "model_a", "model_b", "protocol", "profile", "dataset", "run_a", "run_b",
    *(f.name for f in dataclasses.fields(MetricPair)),
)  # fmt: skip
#: A difference whose p, corrected over all tests, is below this makes the better score bold.
LEVEL = 0.05
LEGEND = (
    f"bold: better, p (Holm) below {LEVEL:g}; A - B with its 95 % interval; p two-sided, of a paired test over the "
    "items of both; Holm: corrected over the tests of this table"
)


def question(result: PairResult) -> str:
    """What was tested, with the settings that were changed left out."""
    return f"{result.run_a.protocol} {result.run_a.profile.partition('+')[0]} {result.run_a.dataset}"


def p_text(value: float | None) -> str:
    return "" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def interval_text(m: MetricPair) -> str:
    return "" if m.ci_low is None or m.ci_high is None else f"[{m.ci_low:+.2f}, {m.ci_high:+.2f}]"


def facts(result: PairResult, m: MetricPair) -> dict[str, object]:
    """A row of the CSV."""
    a, b = result.run_a, result.run_b
    return {
        "model_a": a.checkpoint.name, "model_b": b.checkpoint.name, "protocol": a.protocol, "profile": a.profile,
        "dataset": a.dataset, "run_a": a.run_id, "run_b": b.run_id, **dataclasses.asdict(m),
    }  # fmt: skip


def to_csv(pairing: Pairing) -> str:
    """Every metric of every test at full precision, the primary one first."""
    return csv_text(CSV_COLUMNS, [facts(r, m) for r in pairing.results for m in r.metrics])


def to_json(pairing: Pairing) -> str:
    """All of it but the records themselves; a bound that is not finite is null."""
    results = [
        {
            "run_a": r.run_a.run_id, "run_b": r.run_b.run_id, "model_a": r.run_a.checkpoint.name,
            "model_b": r.run_b.checkpoint.name, "protocol": r.run_a.protocol, "profile": r.run_a.profile,
            "dataset": r.run_a.dataset, "metrics": [dataclasses.asdict(m) for m in r.metrics],
            "where": [dataclasses.asdict(g) for g in r.where], "notes": r.notes,
        }
        for r in pairing.results
    ]  # fmt: skip
    whole = {"a": pairing.a, "b": pairing.b, "results": results, "skipped": pairing.skipped, "notes": pairing.notes}
    return json.dumps(finite(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rows(pairing: Pairing, bold: Callable[[str], str], text: Callable[[str], str]) -> Iterator[list[str]]:
    for r in pairing.results:
        m = r.primary
        sure = m.p_holm is not None and m.p_holm < LEVEL and m.difference != 0
        a_leads = (m.difference > 0) == m.higher_is_better
        a, b = text(f"{m.a:.2f}"), text(f"{m.b:.2f}")
        scores = [bold(a) if sure and a_leads else a, bold(b) if sure and not a_leads else b]
        numbers = [f"{m.difference:+.2f}", interval_text(m), p_text(m.p), p_text(m.p_holm)]
        metric = f"{m.metric} ({m.unit})" if m.unit else m.metric
        yield [text(question(r)), text(metric), *scores, *map(text, numbers)]


def _heads(pairing: Pairing) -> list[str]:
    return ["test", "metric", f"A: {pairing.a}", f"B: {pairing.b}", "A - B", "95 % interval", "p", "p (Holm)"]


def _notes(pairing: Pairing) -> list[str]:
    """What the table rests on: how it was tested, and over how many items."""
    tested = [
        f"{question(r)}: {r.primary.items:,} items"
        + (f" in {r.primary.groups:,} groups by {r.primary.cluster}" if r.primary.cluster else "")
        + f", {r.primary.method}"
        for r in pairing.results
        if r.primary.method
    ]
    untested = [f"{question(r)}: {r.primary.note}" for r in pairing.results if not r.primary.method]
    return [LEGEND, *tested, *untested, *pairing.notes]


def to_markdown(pairing: Pairing) -> str:
    """A table as GitHub renders it, notes below."""
    heads = [markdown_text(head) for head in _heads(pairing)]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    lines += _rows(pairing, lambda text: f"**{text}**", markdown_text)
    said = [*_notes(pairing), *(f"left out: {line}" for line in pairing.skipped)]
    notes = [f"- {markdown_text(note)}" for note in said]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *notes]) + "\n"


def to_latex(pairing: Pairing) -> str:
    """A floating table with booktabs' rules, notes below; what could not be compared is a comment."""
    heads = [latex_text(head) for head in _heads(pairing)]
    body = [latex_row(row) for row in _rows(pairing, lambda text: rf"\textbf{{{text}}}", latex_text)]
    notes = [latex_text(note) for note in _notes(pairing)]
    comments = "".join(f"% left out: {latex_text(line)}\n" for line in pairing.skipped)
    return comments + latex_float("ll" + "r" * (len(heads) - 2), [latex_row(heads)], body, notes)


#: The formats that a pairing can be written in, each with what writes it.
FORMATS: dict[str, Callable[[Pairing], str]] = {
    "csv": to_csv, "markdown": to_markdown, "latex": to_latex, "json": to_json,
}  # fmt: skip
