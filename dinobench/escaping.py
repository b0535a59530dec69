"""Foreign text on its way out, one function a format: names in files and records come from anybody.

A model may be called by a terminal's escape sequence, a workflow command of a CI service or a spreadsheet's formula.
HTML is escaped here for notebooks and by the report's templates, Markdown and LaTeX by the writers of tables.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters but tab and newline, and the marks that turn the direction of text: what is shown is what is there.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
# What GitHub's and Azure's runners take for a command at the start of a line of output.
_COMMAND = re.compile(r"^(\s*)(::|##\[|##vso\[)", re.MULTILINE)
#: First characters of a cell that spreadsheets take for a formula (owasp.org, CSV Injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    r"""Text for terminals and logs: control characters as escapes, which JSON reads too.

    >>> visible("a\x1b[2Jb")
    'a\\u001b[2Jb'
    """
    return _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def inert(text: str) -> str:
    r"""`visible` text whose lines are no commands to a CI service either.

    >>> inert("::error::x")
    '\\::error::x'
    """
    return _COMMAND.sub(r"\1\\\2", visible(text))


def csv_cell(text: str) -> str:
    """A cell of a CSV that no spreadsheet takes for a formula and no CI service for a command, when it is printed.

    >>> csv_cell("=1+1"), csv_cell("dino")
    ("'=1+1", 'dino')
    """
    text = _COMMAND.sub(r"\1\\\2", text)
    return f"'{text}" if text.startswith(FORMULA) else text


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts and numbers as HTML, whatever they hold; numbers stand right.

    >>> html_table("", ["model", "n"], [["<b>", 3]]).count("&lt;b&gt;")
    1
    """

    def cell(value: Any) -> str:
        side = "left" if isinstance(value, str) else "right"
        return f'<td style="text-align:{side}">{html.escape(visible(str(value)))}</td>'

    titles = "".join(f'<th style="text-align:left">{html.escape(visible(name))}</th>' for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    above = f"<caption>{html.escape(visible(caption))}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


class ShownRecord:
    """What a notebook shows of a run record: all its scores with their intervals."""

    def _repr_html_(self: Any) -> str:
        caption = " · ".join([self.checkpoint.name, self.protocol, self.profile, self.dataset])
        return html_table(caption, SCORE, [_score(name, m) for name, m in self.metrics.items()])


class ShownRecords(list[Any]):
    """A list of run records, of which a notebook shows the primary scores."""

    def _repr_html_(self) -> str:
        rows = [
            [r.checkpoint.name, r.protocol, r.profile, r.dataset, *_score(r.primary, r.metrics[r.primary])]
            for r in self
        ]  # fmt: skip
        return html_table("", ["model", "protocol", "profile", "data set", *SCORE], rows)


#: Columns of a score.
SCORE = ("metric", "score", "95 % interval", "n", "unit")


def _score(name: str, measured: Any) -> list[Any]:
    low, high = measured.ci_low, measured.ci_high
    interval = "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
    return [name, float(f"{measured.value:.2f}"), interval, measured.n, measured.unit]


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


#: The error handler of output streams: what their encoding lacks is written as escapes that JSON reads.
ESCAPED = "dinobench-escaped"
codecs.register_error(ESCAPED, _escaped)
