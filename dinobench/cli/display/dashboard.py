"""A suite while it runs: its cells as a grid, who is at what, the time left, the best so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import ceil

from dinobench import console
from dinobench.compare.writers import markdown_text
from dinobench.escaping import visible
from dinobench.suite.work.status import SETTLED, Now, Standing, Status

#: What a cell looks like, and where the terminal has ASCII alone; a running one by how far it is.
SIGNS = {
    Now.DONE: "■#", Now.QUEUED: "·.", Now.FAILED: "✗x", Now.MISSING: "??", Now.NOT_APPLICABLE: "--", Now.RUNNING: "▷>",
}  # fmt: skip
STEPS = "▁▂▃▄▅▆▇"
#: Patterns of signs, and their colours. The grid is the only place where they stand together.
STYLES = {"■+": "green", "[▁-▇▷]+": "cyan", "✗": "red", "^.* left$": "bold"}
#: Columns of a label at most, of the best so far, and of a grid at least.
LABEL, BEST, GRID = 30, 26, 8
#: Running cells and failures that are named.
NAMED = 4


def lines(found: Status, width: int, height: int) -> list[str]:
    """The dashboard in as many columns and at most as many lines."""
    head = [summary(found)]
    running = [_running(s) for s in found.cells if s.now is Now.RUNNING]
    failed = [f"✗ {_name(s)}: {s.reason}" for s in found.cells if s.now is Now.FAILED]
    tail = [*_some(running, NAMED, "running"), *_some(failed[::-1], NAMED, "failed")]
    grid = _grid(found, width, max(1, height - len(head) - len(tail) - 2))
    ascii_only = not str(console.stderr.encoding).lower().startswith("utf")
    return [cut(_plain(line) if ascii_only else line, width) for line in (*head, *grid, *tail)]


def summary(found: Status) -> str:
    """Counts and time left in one line."""
    count = found.count()
    shown = [f"{count[now]:,} {now}" for now in Now if count[now] and now is not Now.DONE]
    parts = [f"{found.suite.name}: {count[Now.DONE]:,} of {len(found.cells):,} cells done", *shown]
    if any(s.now not in SETTLED for s in found.cells):
        left = found.seconds_left()
        parts.append("unknown time left" if left is None else f"about {clock(left)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(7322)
    ('1:15', '2:02:02')
    """
    minutes, rest = divmod(round(seconds), 60)
    whole, minutes = divmod(minutes, 60)
    return f"{whole}:{minutes:02}:{rest:02}" if whole else f"{minutes}:{rest:02}"


def _grid(found: Status, width: int, most: int) -> list[str]:
    """A line for each row of the suite; where they are too many, those with nothing left to do are counted."""
    rows = found.rows
    labels = {key: label(found, key) for key in rows}
    wide = min(LABEL, max(map(len, labels.values()), default=0), max(GRID, width - GRID - BEST - 12))
    left = [key for key, row in rows.items() if any(s.now not in SETTLED for s in row)]
    chosen = list(rows) if len(rows) <= most else (left or list(rows))[: max(1, most - 1)]
    counts = {key: f"{sum(s.now is Now.DONE for s in rows[key])}/{len(rows[key])}" for key in chosen}
    tally = max(map(len, counts.values()), default=0)
    best = {key: _best(found, key) for key in chosen}
    room = max(GRID, width - wide - tally - max([GRID, *map(len, best.values())]) - 6)
    room = min(room, max((len(rows[key]) for key in chosen), default=0))
    shown = [
        f"{cut(labels[key], wide):{wide}}  {signs(rows[key], room):{room}}  {counts[key]:>{tally}}  {best[key]}"
        for key in chosen
    ]
    more = len(rows) - len(chosen)
    return [line.rstrip() for line in shown] + ([f"and {more} more row{'s' if more > 1 else ''}"] if more else [])


def label(found: Status, key: tuple[str, ...]) -> str:
    """What tells a row from the others: of its profile what not all of its protocol's have."""
    protocol, profile, *data = key
    others = [other[1].split("+") for other in found.rows if other[0] == protocol]
    own = "+".join(part for part in profile.split("+") if not all(part in other for other in others))
    return " · ".join(filter(None, [protocol, own, " ".join(data)]))


def signs(row: Sequence[Standing], room: int) -> str:
    """The cells of a row, each a sign; where they are more than fit, one for several."""
    size = max(1, ceil(len(row) / max(room, 1)))
    return "".join(_sign(row[i : i + size]) for i in range(0, len(row), size))


def _sign(some: Sequence[Standing]) -> str:
    running = [s for s in some if s.now is Now.RUNNING]
    if running:
        shares = [s.share for s in running if s.share is not None]
        return STEPS[min(int(max(shares) * len(STEPS)), len(STEPS) - 1)] if shares else SIGNS[Now.RUNNING][0]
    states = {s.now for s in some}
    order = (Now.FAILED, Now.QUEUED, Now.MISSING, Now.DONE, Now.NOT_APPLICABLE)
    if states == {Now.DONE, Now.QUEUED}:
        return "▪"
    return SIGNS[next(now for now in order if now in states)][0]


def _plain(line: str) -> str:
    for sign, plain in [*SIGNS.values(), *((step, ">") for step in STEPS), "▪+", "…~"]:
        line = line.replace(sign, plain)
    return line


def _best(found: Status, key: tuple[str, ...]) -> str:
    best = found.best(found.rows[key])
    return cut(score(best), BEST) if best is not None else ""


def score(standing: Standing) -> str:
    """The number that a cell got, with the model."""
    return f"{standing.score:.1f} {standing.cell.model}"


def _name(standing: Standing) -> str:
    cell = standing.cell
    seed = f" seed {cell.seed}" if cell.seed else ""
    return f"{cell.protocol} · {cell.dataset} of {cell.model}{seed}"


def _running(standing: Standing) -> str:
    share = "" if standing.share is None else f" {standing.share:.0%}"
    what = f": {standing.what}{share}" if standing.what else ""
    return f"▷ {_name(standing)}{what}" + (f" on {standing.host}" if standing.host else "")


def _some(said: Sequence[str], most: int, what: str) -> list[str]:
    more = len(said) - most
    return [*said[:most], *([f"and {more} more {what}"] if more > 0 else [])]


def cut(text: str, room: int) -> str:
    """One line of at most so many characters."""
    text = visible(" ".join(text.split("\n")))
    return text if len(text) <= room else text[: max(room - 1, 0)] + "…"


def status(found: Status) -> None:
    """The same once, on stdout."""
    console.text("\n".join(lines(found, console.stdout.width, 10_000)))


def ended(found: Status, standing: Standing) -> str:
    """A line when a cell has ended: how many have, what came of it, how long all the others will take."""
    over = sum(s.now in SETTLED for s in found.cells)
    said = f"[{over}/{len(found.cells)}] {_name(standing)}: {standing.now}"
    if standing.now is Now.DONE and standing.seconds is not None:
        said += f" in {standing.seconds:.1f} s"
    elif standing.reason:
        said += f": {standing.reason}"
    left = found.seconds_left()
    return said + (f", about {clock(left)} left" if left and over < len(found.cells) else "")


def to_markdown(found: Status) -> str:
    """For a pull request's comment: the counts, a row for what can be compared, and what failed with the reason."""
    table = ["| protocol | profile | data | done | best so far |", "|---|---|---|---|---|"]
    for key, row in found.rows.items():
        best = found.best(row)
        done = f"{sum(s.now is Now.DONE for s in row)}/{len(row)}"
        shown = "" if best is None else f"**{best.score:.1f}** {best.metric} {best.cell.model}"
        protocol, profile, *data = key
        table.append("| " + " | ".join(markdown_text(c) for c in (protocol, profile, " ".join(data), done)) + " | "
                     + markdown_text(shown).replace(r"\*\*", "**") + " |")  # fmt: skip
    failed = [f"- {markdown_text(_name(s))}: {markdown_text(s.reason)}" for s in found.cells if s.now is Now.FAILED]
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return "\n\n".join(filter(None, [f"{markdown_text(summary(found))} ({at})", "\n".join(table), "\n".join(failed)]))
