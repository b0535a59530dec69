"""A table of scores and how it is written: CSV with fixed columns, Markdown as GitHub renders it, LaTeX with booktabs.

What stands in a table is decided elsewhere; here no name, however odd, can break its structure.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from dinobench.escaping import csv_cell

#: Of the CSV: one row a cell, so that the columns are the same whatever is compared.
CSV_COLUMNS = (
    "model", "method", "arch", "protocol", "profile", "dataset", "metric", "unit", "value", "ci_low", "ci_high", "n",
    "place", "published", "source", "seed", "run_id", "notes",
)  # fmt: skip
#: Decimals of scores in the tables that people read; the CSV has all there are.
DECIMALS = 1
#: The place of scores that a test cannot tell from the best: neither bold nor underlined.
TIED = 3
PLACES = {1: "best", 2: "second", TIED: "tied"}


@dataclass(frozen=True)
class Cell:
    """A score with its 95 % interval. `place` is 1 for the best of those it may be ranked with, 2 for the second, TIED
    where the best cannot be told from the next.

    `marks` are letters of the table's notes; `facts` are the CSV's columns.
    """

    value: float
    low: float | None = None
    high: float | None = None
    place: int = 0
    marks: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """A row or a column: its labels, from the general to the particular, and the letters of its notes."""

    labels: tuple[str, ...]
    marks: tuple[str, ...] = ()
    published: bool = False


@dataclass(frozen=True)
class Table:
    """Cells by row and column; `corner` names the labels of the rows, `notes` are letters and what they say."""

    corner: tuple[str, ...]
    rows: tuple[Header, ...]
    columns: tuple[Header, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    notes: tuple[tuple[str, str], ...] = ()


def transposed(table: Table, corner: tuple[str, ...]) -> Table:
    """Rows as columns; `corner` names the labels of what are rows then."""
    cells = tuple(zip(*table.cells, strict=True)) if table.cells else tuple(() for _ in table.columns)
    return replace(table, corner=corner, rows=table.columns, columns=table.rows, cells=cells)


def shown(cell: Cell | None, spread: str = "") -> str:
    """A cell's number for people: alone, with its interval or with ± half of it.

    >>> [shown(Cell(74.51, 73.0, 76.1), spread) for spread in ("", "intervals", "pm")]
    ['74.5', '74.5 [73.0, 76.1]', '74.5 ± 1.5']
    """
    if cell is None:
        return ""
    text = f"{cell.value:.{DECIMALS}f}"
    if not spread or cell.low is None or cell.high is None:
        return text
    if spread == "pm":
        return f"{text} ± {(cell.high - cell.low) / 2:.{DECIMALS}f}"
    return f"{text} [{cell.low:.{DECIMALS}f}, {cell.high:.{DECIMALS}f}]"


def to_csv(table: Table) -> str:
    """One row a cell, in the order of the table, at full precision."""
    notes = dict(table.notes)
    lines = []
    for row, cells in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, cells, strict=True):
            if cell is not None:
                marks = dict.fromkeys([*row.marks, *column.marks, *cell.marks])
                remarks = " | ".join(notes[m] for m in marks)
                lines.append({**cell.facts, "place": PLACES.get(cell.place, ""), "notes": remarks})
    return csv_text(CSV_COLUMNS, lines)


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows by column name as CSV; what a row lacks, or has as None, is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_readable, rows))
    return out.getvalue()


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the two characters that readers of CSV do not agree on, quoted or not, and without formulas."""
    texts = {k: csv_cell(v.replace("\r", " ").replace("\0", " ")) for k, v in facts.items() if isinstance(v, str)}
    return {**facts, **texts}


def finite(tree: Any) -> Any:
    """JSON has no NaN and no infinity: None stands for either.

    >>> finite({"a": [1.5, float("inf")], "b": "nan"})
    {'a': [1.5, None], 'b': 'nan'}
    """
    if isinstance(tree, dict):
        return {k: finite(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(v) for v in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


_MARKDOWN = str.maketrans({
    **{c: f"&#{ord(c)};" for c in "|\\<>&$"}, **{c: f"\\{c}" for c in "*_`[]~"}, **{chr(c): " " for c in range(32)},
    "\x7f": " ", "\x85": " ", "\u2028": " ", "\u2029": " ",
})  # fmt: skip


def markdown_text(text: str) -> str:
    r"""A text that Markdown shows as it is, in one line and one cell.

    >>> markdown_text("a_b|c")
    'a\\_b&#124;c'
    """
    return text.translate(_MARKDOWN)


def to_markdown(table: Table, spread: str = "") -> str:
    """A table as GitHub renders it: the best bold, the second underlined, notes below."""
    join = "<br>".join

    def line(head: Header) -> str:
        return join(markdown_text(label) or "&nbsp;" for label in head.labels) + _sup(head.marks)

    def cell(entry: Cell | None) -> str:
        text = shown(entry, spread)
        if entry is None:
            return text
        text = {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(entry.place, text)
        return text + _sup(entry.marks)

    def row(parts: Sequence[str]) -> str:
        return f"| {' | '.join(parts)} |"

    written = [
        row([*map(markdown_text, table.corner), *map(line, table.columns)]),
        row([*["---"] * len(table.corner), *["---:"] * len(table.columns)]),
    ]
    for head, cells in zip(table.rows, table.cells, strict=True):
        labels = [markdown_text(label) for label in head.labels]
        labels[-1] = (f"<em>{labels[-1]}</em>" if head.published else labels[-1]) + _sup(head.marks)
        written.append(row([*labels, *map(cell, cells)]))
    if table.notes:
        written += ["", "<br>\n".join(f"<sup>{mark}</sup> {markdown_text(note)}" for mark, note in table.notes)]
    return "\n".join(written) + "\n"


def _sup(marks: Sequence[str]) -> str:
    return f"<sup>{','.join(marks)}</sup>" if marks else ""


_LATEX = {
    **{c: f"\\{c}" for c in "{}#$%&_"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "`": r"\textasciigrave{}", '"': r"\char34{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # behind the end of a row they would be its options
    "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "µ": r"$\mu$", "–": "--{}", "—": "---{}", "’": "'",
    "…": r"\dots{}", "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "œ": r"\oe{}",
    "Œ": r"\OE{}", "ł": r"\l{}", "Ł": r"\L{}", "≥": r"$\geq$", "≤": r"$\leq$", "\u00a0": " ",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def latex_text(text: str) -> str:
    r"""A text that LaTeX sets as it is with any engine and font encoding, in one line and one cell.

    A character that not every one of them knows is written by its code point.

    >>> latex_text("ViT_S & é"), latex_text("猫")
    ("ViT\\_S \\& \\'{e}", 'U+732B')
    """
    written = "".join(_latex_character(c) for c in unicodedata.normalize("NFC", text))
    return re.sub(r"([-,'])(?=\1)", r"\1{}", written)  # or two of them would become one other sign


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character.isascii():
        return character if character.isprintable() else " "
    base, accent = (*unicodedata.normalize("NFD", character), "", "")[:2]
    if len(unicodedata.normalize("NFD", character)) == 2 and base.isascii() and base.isalpha() and accent in _ACCENTS:
        return f"\\{_ACCENTS[accent]}{{{base}}}"
    return f"U+{ord(character):04X}"


def latex_float(columns: str, head: Sequence[str], body: Sequence[str], notes: Sequence[str]) -> str:
    """A floating table with booktabs' rules, and notes (LaTeX already) below."""
    written = [
        r"% \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
        *head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    if notes:
        written += ["", r"\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        written += [rf"{note}\par" for note in notes]
        written.append(r"\end{minipage}")
    return "\n".join([*written, r"\end{table}"]) + "\n"


def to_latex(table: Table, spread: str = "") -> str:
    """A floating table with booktabs' rules: the best bold, the second underlined, notes below."""
    depth = max((len(c.labels) for c in table.columns), default=1)
    body = []
    published = False
    for head, cells in zip(table.rows, table.cells, strict=True):
        if head.published and not published and head is not table.rows[0]:
            body.append(r"\midrule")
        published = head.published
        labels = [latex_text(label) for label in head.labels]
        labels[-1] = (rf"\textit{{{labels[-1]}}}" if published else labels[-1]) + _latex_marks(head.marks)
        body.append(latex_row([*labels, *(_latex_cell(c, spread) for c in cells)]))
    notes = [rf"\textsuperscript{{{mark}}} {latex_text(note)}" for mark, note in table.notes]
    return latex_float("l" * len(table.corner) + "r" * len(table.columns), _latex_heading(table, depth), body, notes)


def _latex_heading(table: Table, depth: int) -> list[str]:
    """A line for every label of the columns; equal neighbours in the first are one, with a rule under them."""
    lines = []
    for level in range(depth):
        last = level == depth - 1
        cells, rules = [latex_text(name) if last else "" for name in table.corner], []
        heads = [_heading(c, level, last) for c in table.columns]
        runs = [(text, len(list(same))) for text, same in groupby(heads)] if level == 0 < depth - 1 else None
        for text, n in runs or [(text, 1) for text in heads]:
            if n > 1:
                rules.append(rf"\cmidrule(lr){{{len(cells) + 1}-{len(cells) + n}}}")
            cells += [text] if n == 1 else [rf"\multicolumn{{{n}}}{{c}}{{{text}}}"]
            cells += [_COVERED] * (n - 1)
        lines += [latex_row([c for c in cells if c is not _COVERED]), *([" ".join(rules)] if rules else [])]
    return lines


#: Stands for a column that the cell before it spans.
_COVERED = "\0"


def _heading(column: Header, level: int, last: bool) -> str:
    text = latex_text(column.labels[level]) if level < len(column.labels) else ""
    return text + (_latex_marks(column.marks) if last else "")


def _latex_cell(cell: Cell | None, spread: str) -> str:
    if cell is None:
        return ""
    text = latex_text(shown(cell, spread)) if spread != "intervals" else shown(cell, spread)
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.place, text)
    return text + _latex_marks(cell.marks)


def _latex_marks(marks: Sequence[str]) -> str:
    return rf"\textsuperscript{{{','.join(marks)}}}" if marks else ""


def latex_row(cells: Sequence[str]) -> str:
    """Cells that are LaTeX already, as a row of a tabular."""
    return " & ".join(cells) + r" \\"


#: The formats that a table can be written in, each with what writes it.
FORMATS: dict[str, Callable[[Table, str], str]] = {
    "csv": lambda table, spread: to_csv(table),
    "markdown": to_markdown,
    "latex": to_latex,
}
