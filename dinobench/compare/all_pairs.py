"""Every two of several runs, item by item, with one correction over all the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from dinobench.compare.pair import PairResult, compare, corrected
from dinobench.compare.pair_files import LEVEL, p_text
from dinobench.compare.writers import DECIMALS, markdown_text
from dinobench.types import RunRecord

LEGEND = (
    "row less column, with its 95 % interval and the two-sided p of a paired test, Holm's over the pairs of this "
    f"table; bold: told apart (p < {LEVEL:g})"
)


def all_pairs(results: Path, records: Sequence[RunRecord]) -> tuple[PairResult, ...]:
    """Every two of `records`, in their order; p of their primary metric is corrected over all of them.

    Raises UserError where two are not comparable or scored different items.
    """
    return corrected([compare(results, a, results, b) for a, b in combinations(records, 2)])


def difference_text(pair: PairResult) -> str:
    """The difference of the primary metric in Markdown, bold where the two can be told apart."""
    m = pair.primary
    text = f"{m.difference:+.{DECIMALS}f}"
    if m.ci_low is not None and m.ci_high is not None:
        text += f" [{m.ci_low:+.{DECIMALS}f}, {m.ci_high:+.{DECIMALS}f}]"
    p = m.p if m.p_holm is None else m.p_holm
    if p is None:
        return text
    return f"**{text}** (p {p_text(p)})" if p < LEVEL else f"{text} (p {p_text(p)})"


def to_markdown(pairs: Sequence[PairResult]) -> str:
    """A triangle: the first of each pair in the rows, the second in the columns."""
    names = list(dict.fromkeys(run.checkpoint.name for pair in pairs for run in (pair.run_a, pair.run_b)))
    cells = {(pair.run_a.checkpoint.name, pair.run_b.checkpoint.name): difference_text(pair) for pair in pairs}
    columns = names[1:]
    lines = [
        f"| | {' | '.join(map(markdown_text, columns))} |",
        f"| --- | {' | '.join(['---:'] * len(columns))} |",
        *(f"| {markdown_text(a)} | {' | '.join(cells.get((a, b), '') for b in columns)} |" for a in names[:-1]),
    ]
    return "\n".join(lines) + f"\n\n<sup>{markdown_text(LEGEND)}</sup>\n"
