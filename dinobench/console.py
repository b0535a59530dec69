"""What people see: progress, tables, warnings and errors. The only module that imports rich.

Results for machines go to stdout, everything else to stderr; when stderr is not a terminal, progress is plain lines.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dinobench.escaping import ESCAPED, inert, visible

T = TypeVar("T")

# A terminal that lacks a letter is no reason to end: what it cannot show is escaped.
for _stream in (sys.stdout, sys.stderr):
    if hasattr(_stream, "reconfigure"):
        _stream.reconfigure(errors=ESCAPED)


class _Stdout(Console):
    def on_broken_pipe(self) -> None:  # rich's own exits with 1, which here means that a gate said no
        _reader_gone()


# What is piped keeps its full width instead of being folded to 80 columns.
stderr = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 10_000)
stdout = _Stdout(highlight=False, width=None if sys.stdout.isatty() else 10_000)

#: Work that ends sooner than this shows no progress at all.
QUIET_SECONDS = 2.0
#: How often a plain (not a terminal) progress line is written.
PLAIN_SECONDS = 15.0
#: Columns of a terminal from which on progress is drawn as a bar too, and the bar's own.
_WIDE, _BAR = 100, 24
#: Columns of what stands beside description and counts: rate, time left and gaps; a bar and the time so far.
_BESIDE, _DRAWN = 23, 33
#: Spaces between the columns of a table.
GAP = 2
#: Set by processes that must not speak: all but the first of a distributed run.
silent = False
_hushed = False
#: Is told of all `progress` (what is done, how much, of how much), by whoever shows it in a place of its own.
watcher: Callable[[str, int, int | None], None] | None = None


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed) if speed else "", style="dim")


def progress(iterable: Iterable[T], description: str, total: int | None = None, start: int = 0) -> Iterator[T]:
    """The same items, counted on screen with rate and time left once they take over two seconds.

    An item may stand for several: one that has a length `n` attribute of its own counts as that many, which is how a
    loop over batches counts images; what it `says` (a loss, an accuracy) stands behind the description. `start` is
    what an earlier, interrupted call has done already.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    began = shown_at = time.monotonic()
    done = start
    bar: Progress | None = None
    task, room = None, 0
    try:
        for item in iterable:
            yield item
            done += getattr(item, "n", 1)
            shown = visible(": ".join(filter(None, [description, getattr(item, "says", "")])))
            now = time.monotonic()
            if watcher is not None:
                watcher(shown, done, total)
            if silent or now - began < QUIET_SECONDS:
                continue
            if not stderr.is_terminal:
                if now - shown_at >= PLAIN_SECONDS:
                    shown_at = now
                    stderr.print(_plain(shown, done, total, done - start, now - began))
                continue
            if bar is None:
                room = stderr.width - (2 * len(str(total or 0)) + 1) - _BESIDE
                wide = stderr.width >= _WIDE and len(shown) + _DRAWN <= room  # the time left is worth more than a bar
                room -= _DRAWN * wide
                bar = Progress(
                    TextColumn("{task.description}"), *[BarColumn(_BAR)] * wide, MofNCompleteColumn(), _Rate(),
                    *[TimeElapsedColumn()] * wide, TimeRemainingColumn(), console=stderr, transient=True,
                )  # fmt: skip
                bar.start()
                task = bar.add_task(escape(_cut(shown, room)), total=total, completed=start)
            assert task is not None
            bar.update(task, completed=done, description=escape(_cut(shown, room)))
    finally:
        if bar is not None:
            bar.stop()
    if not silent and time.monotonic() - began >= QUIET_SECONDS:
        took = time.monotonic() - began
        stderr.print(
            f"{description}: {done - start:,} in {_clock(took)} ({(done - start) / took:,.1f}/s)", markup=False
        )


@contextmanager
def standing(lines: Callable[[int, int], Sequence[str]], styles: Mapping[str, str]) -> Iterator[Callable[[], None]]:
    """Lines that stay at the bottom of a terminal while others are printed above them; yields what draws them anew.

    `lines(width, height)` says them for a screen of that size, `styles` how what a pattern matches looks: its keys are
    regular expressions. They vanish when the block ends. Where stderr is no terminal nothing is shown.
    """
    if silent or not stderr.is_terminal:
        yield lambda: None
        return

    def drawn() -> Text:
        text = Text("\n".join(map(visible, lines(*stderr.size))), no_wrap=True, overflow="ellipsis")
        for pattern, style in styles.items():
            text.highlight_regex(pattern, style)
        return text

    with Live(console=stderr, auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()) as live:
        yield lambda: live.update(drawn(), refresh=True)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room, 8) - 1] + "…"


def _plain(description: str, done: int, total: int | None, since: int, seconds: float) -> str:
    rate = since / seconds
    left = f", {_clock((total - done) / rate)} left" if total and rate else ""
    return escape(f"{description}: {done:,}{f'/{total:,}' if total else ''} ({_rate(rate)}{left})")


def _rate(per_second: float) -> str:
    return f"{per_second:,.1f}/s" if per_second >= 0.5 or not per_second else f"{1 / per_second:,.1f} s each"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def hushed() -> Iterator[None]:
    """No notes meanwhile: of work whose results nobody will see they would only be in the way."""
    global _hushed
    before, _hushed = _hushed, True
    try:
        yield
    finally:
        _hushed = before


def note(message: str) -> None:
    """A line on stderr for people: what happened."""
    if not silent and not _hushed:
        stderr.print(inert(message), markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """A line on stderr that wants attention."""
    if not silent:
        stderr.print(f"[yellow]warning:[/] {escape(inert(message))}", soft_wrap=True)


def error(message: str) -> None:
    """The one line that says what is wrong with the input and what to do about it."""
    one_line = " ".join(message.split())
    stderr.print(f"[bold red]error:[/] {escape(inert(one_line))}", soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout; columns named in `right` are right-aligned numbers."""
    cells = [[inert(str(cell)).split("\n") for cell in row] for row in ([columns] if any(columns) else []) + [*rows]]
    widths = [
        max((cell_len(line) for cell in column for line in cell), default=0) for column in zip(*cells, strict=True)
    ]
    lines = []
    for row in cells:  # by hand: a library that can wrap and colour takes two seconds for a thousand rows
        for i in range(max(map(len, row))):
            parts = []
            for name, width, cell in zip(columns, widths, row, strict=True):
                part = cell[i] if i < len(cell) else ""
                gap = " " * (width - cell_len(part))
                parts.append(gap + part if name in right else part + gap)
            lines.append((" " * GAP).join(parts).rstrip())
    height = max(map(len, cells[0])) if cells and any(columns) else 0
    bold = [*([inert(title)] if title else []), *(["\n".join(lines[:height])] if height else [])]
    with stdout.capture() as captured:  # not printed by rich, which would not know of what stands below (`standing`)
        for lead in bold:
            stdout.print(Text(lead), style="bold", soft_wrap=True)
    head = [captured.get().rstrip("\n")] if bold else []
    _write("\n".join([*head, *lines[height:]]).rstrip("\n"))


def text(message: str) -> None:
    """Plain text on stdout, as given but for control characters."""
    _write(visible(message))


def _write(message: str) -> None:
    try:
        sys.stdout.write(message if message.endswith("\n") else message + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_gone()


def _reader_gone() -> NoReturn:
    """Stop in peace when nobody reads our output any more, as in `dinobench list | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
    raise SystemExit(0)
