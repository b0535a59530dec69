"""What a demo ends with: its sentences on the screen, and its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinobench import console
from dinobench.demo import findings
from dinobench.report import page
from dinobench.types import RunRecord


def show(out: Path, records: Sequence[RunRecord]) -> None:
    """Say what the demo in `out` shows, and write its report.html."""
    for number, sentence in enumerate(findings(out, records), 1):
        console.text(f"{number}. {sentence}")
    report = out / "report.html"
    page.write(out, report, title="dinobench demo")
    console.note(f"written: {report}; open it in a browser")
