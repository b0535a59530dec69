"""Tables that fit on the screen: as they are, with one column folded, in blocks of columns, or row by row."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from dinobench import console
from dinobench.escaping import inert

#: Spaces between columns.
GAP = console.GAP
#: Columns narrower than this are no longer read but spelt.
NARROW = 24


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout as `console.table` shows it; where it is wider than the screen, in a form that is not.

    The widest text is folded if that makes it fit. Else columns of numbers (`right`) are cut into blocks below each
    other, and tables of text become a paragraph a row.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    screen = console.stdout.width
    title = folded(title, screen) if title else ""
    widths = [max(map(_width, column)) for column in zip(columns, *cells, strict=True)]
    if sum(widths) + GAP * (len(widths) - 1) <= screen:
        return console.table(title, columns, cells, right=right)
    foldable = [i for i, name in enumerate(columns) if name not in right]
    widest = max(foldable, key=lambda i: widths[i], default=None)
    if widest is not None:
        room = screen - sum(w for i, w in enumerate(widths) if i != widest) - GAP * (len(widths) - 1)
        if room >= NARROW:
            fitting = [[folded(c, room) if i == widest else c for i, c in enumerate(row)] for row in cells]
            return console.table(title, columns, fitting, right=right)
    numbers = [i for i, name in enumerate(columns) if name in right]
    labels = [i for i in foldable if not numbers or i < numbers[0]]
    lead = sum(widths[i] + GAP for i in labels)
    if len(labels) + len(numbers) == len(columns) and numbers and lead + max(widths[i] for i in numbers) <= screen:
        for block in blocks([widths[i] for i in numbers], screen - lead):
            some = [*labels, *(numbers[k] for k in block)]
            console.table(title, [columns[i] for i in some], [[row[i] for i in some] for row in cells], right=right)
            title = ""
            if numbers[block[-1]] != numbers[-1]:
                console.text("")
        return None
    if title:
        console.text(title)
    console.text(inert("\n".join(line for row in cells for line in _paragraph(columns, row, screen))))
    return None


def blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """Which columns stand beside each other in `room`, at least one in each block.

    >>> blocks([10, 10, 10], 25), blocks([40], 25)
    ([[0, 1], [2]], [[0]])
    """
    found: list[list[int]] = []
    used = 0
    for i, width in enumerate(widths):
        if not found or used + width > room:
            found.append([])
            used = 0
        found[-1].append(i)
        used += width + GAP
    return found


def _width(text: str) -> int:
    """Columns of a terminal that the longest line takes."""
    return max(sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line) for line in text.split("\n"))


def folded(text: str, room: int) -> str:
    """The text in lines of at most `room` characters, broken at spaces and behind commas where there are any."""
    parts = (part for line in text.split("\n") for part in textwrap.wrap(line.replace(",", ",\0"), room) or [""])
    return "\n".join(part.replace("\0", "") for part in parts)


def prose(text: str, indent: int = 0) -> str:
    """Sentences in lines that fit on the screen, broken at spaces alone: paths and commands stay whole."""
    lead = " " * indent
    form = textwrap.TextWrapper(
        console.stdout.width, initial_indent=lead, subsequent_indent=lead, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return inert("\n".join(form.fill(line) for line in text.strip().splitlines()))


def _paragraph(columns: Sequence[str], row: Sequence[str], screen: int) -> list[str]:
    """A row as its first cell, then what the others say, as many to a line as fit."""
    lines = [row[0]]
    said = [f"{name}: {cell}" if name else cell for name, cell in zip(columns[1:], row[1:], strict=True) if cell]
    line = ""
    for part in (" ".join(s.split()) for s in said):
        joined = f"{line} · {part}" if line else part
        if line and len(joined) > screen - GAP:
            lines.append(line)
            joined = part
        line = joined
    lines.append(line)
    indent = " " * GAP
    return [lines[0], *(w for part in lines[1:] for w in textwrap.wrap(part, screen, initial_indent=indent,
                                                                       subsequent_indent=2 * indent))]  # fmt: skip
