"""How the gate's verdicts look on a screen and in a log."""

from __future__ import annotations

from collections.abc import Sequence

from dinobench import console
from dinobench.cli.display import layout
from dinobench.compare.gate import GateReport


def show(report: GateReport, annotations: Sequence[str] = ()) -> None:
    """A table of rows, then what is without a counterpart, the verdict in one line, and annotations for Actions."""
    bound = f"{100 * (1 - report.alpha):g} % bounds"
    columns = ["verdict", "model", "protocol", "data", "metric", "baseline", "new", "change", bound, "why"]
    rows = [
        [
            row.verdict, row.model, f"{row.protocol} {row.profile}", row.dataset, f"{row.metric} ({row.unit})",
            f"{row.baseline:.2f}", f"{row.new:.2f}", f"{row.change:+.2f}",
            "" if row.low is None else f"{row.low:+.2f} … {row.high:+.2f}", row.reason,
        ]
        for row in report.rows
    ]  # fmt: skip
    layout.table("", columns, rows, right=["baseline", "new", "change", bound])
    for title, entries in (
        ("vanished", report.vanished),
        ("baseline cannot be read", report.unread),
        ("new", report.new),
        ("note", report.notes),
    ):
        for entry in entries:
            console.text(layout.prose(f"{title}: {entry}"))
    console.text(layout.prose(report.summary))
    for line in annotations:
        console.text(line)
