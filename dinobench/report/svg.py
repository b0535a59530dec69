"""The geometry of the report's plots: bars with intervals and line charts, as numbers that the page's template draws.

Nothing here knows of HTML: names go to the template as they are, which escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Of a line chart, in the units of its viewBox; about the pixels of a phone's width, so that text keeps its size.
WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 10, 36
#: Lines that one chart can tell apart by colour, and bars that one group shows.
LINES, BARS = 8, 24
#: Points of a line: more than the pixels it has would only weigh.
POINTS = 300
#: Up to this many points each is drawn as a dot that tells its values.
DOTS = 25


@dataclass(frozen=True)
class Point:
    """One measurement, with its 95 % interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A named line before it is drawn; `tone` is the number of its colour."""

    name: str
    points: Sequence[Point]
    tone: int = 0


@dataclass(frozen=True)
class Curve:
    """A line as SVG path data, its interval as a closed path, and dots as (cx, cy, what they say)."""

    name: str
    tone: int
    path: str
    band: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """A line chart in a viewBox of WIDTH x HEIGHT; ticks are (position, label), `hidden` counts lines left out."""

    title: str
    x_label: str
    y_label: str
    lines: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    note: str = ""
    hidden: int = 0


@dataclass(frozen=True)
class Bar:
    """A bar from `left`, and its interval; positions in % of the width. `text` is the value as shown."""

    label: str
    detail: str
    text: str
    left: float
    width: float
    low: float | None
    high: float | None
    best: bool
    href: str


@dataclass(frozen=True)
class Bars:
    """Comparable runs side by side, the best first; `start` and `end` are what the edges stand for."""

    title: str
    note: str
    start: str
    end: str
    bars: list[Bar] = field(default_factory=list)
    hidden: int = 0


def number(value: float) -> str:
    """A number for a tick, a table or a tooltip.

    >>> number(74.512345), number(0.0004), number(1234567.0), number(20)
    ('74.51', '0.0004', '1.23e+06', '20')
    """
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 100_000:
        return f"{int(value):,}"
    return f"{value:.2f}" if 1 <= abs(value) < 100_000 else f"{value:.3g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most about `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high].

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(17.2, 21.9)
    [18.0, 19.0, 20.0, 21.0]
    """
    raw = (high - low) / count
    if not raw > 1e-300 or not math.isfinite(raw):
        return [low]
    exponent = math.floor(math.log10(raw))
    power = 10.0**exponent
    step = next((m * power for m in (1, 2, 5) if m * power >= 0.999 * raw), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, max(12, 3 - exponent)) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def labels(marks: Sequence[float]) -> list[str]:
    """Ticks as text, all with as many decimals as the one that needs most.

    >>> labels([0.9, 1.0, 1.1]), labels([10, 20, 200]), labels([0, 1e-7])
    (['0.9', '1.0', '1.1'], ['10', '20', '200'], ['0', '1e-07'])
    """
    texts = [f"{m:.6g}" for m in marks]
    if any("e" in t for t in texts):
        return texts
    decimals = max((len(t.partition(".")[2]) for t in texts), default=0)
    return [f"{m:,.{decimals}f}" for m in marks]


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """Every so-manieth point, the last one always among them."""
    if len(points) <= most:
        return list(points)
    stride = -(-len(points) // (most - 1))
    kept = list(points[::stride])
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    x_at: Sequence[float] | None = None,
    log_x: bool = False,
    note: str = "",
) -> Chart | None:
    """Lay out lines; None when nothing can be drawn. `x_at` are the x values to label, `log_x` their scale."""
    lines = [Series(s.name, [p for p in s.points if _drawable(p, log_x)], s.tone) for s in series]
    lines = [s for s in lines if s.points]
    shown = lines[:LINES]
    points = [p for s in shown for p in s.points]
    if not points:
        return None
    warp = math.log if log_x else float
    xs = [warp(p.x) for p in points]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    x_low, x_high = _room(min(xs), max(xs), 0.0)
    y_low, y_high = _room(min(ys), max(ys), 0.06)

    def at_x(x: float) -> float:
        return round(LEFT + (warp(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def at_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    marks = [x for x in x_at if x > 0 or not log_x] if x_at is not None else ticks(x_low, x_high)
    levels = ticks(y_low, y_high)
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines=[_line(s, at_x, at_y, x_label) for s in shown],
        x_ticks=_apart([(at_x(x), label) for x, label in zip(marks, labels(marks), strict=True)]),
        y_ticks=[(at_y(y), label) for y, label in zip(levels, labels(levels), strict=True)],
        note=note,
        hidden=len(lines) - len(shown),
    )


def _drawable(point: Point, log_x: bool) -> bool:
    return math.isfinite(point.x) and math.isfinite(point.y) and (point.x > 0 or not log_x)


def _room(low: float, high: float, share: float) -> tuple[float, float]:
    """The range with a margin of `share` at both ends, and never empty."""
    if high <= low:
        margin = abs(low) * 0.05 or 0.5
        return low - margin, high + margin
    return low - share * (high - low), high + share * (high - low)


def _apart(marks: list[tuple[float, str]], gap: float = 26) -> list[tuple[float, str]]:
    """Labels that would run into the one before are left out."""
    kept: list[tuple[float, str]] = []
    for mark in marks:
        if not kept or mark[0] - kept[-1][0] >= gap:
            kept.append(mark)
    return kept


def _line(series: Series, at_x, at_y, x_label: str) -> Curve:  # type: ignore[no-untyped-def]
    points = thinned(sorted(series.points, key=lambda p: p.x))
    path = "M" + "L".join(f"{at_x(p.x)} {at_y(p.y)}" for p in points)
    banded = [p for p in points if p.low is not None and p.high is not None]
    edge = [f"{at_x(p.x)} {at_y(p.high)}" for p in banded] + [f"{at_x(p.x)} {at_y(p.low)}" for p in reversed(banded)]
    dots = [(at_x(p.x), at_y(p.y), _says(series.name, x_label, p)) for p in points] if len(points) <= DOTS else []
    return Curve(series.name, series.tone, path, "M" + "L".join(edge) + "Z" if len(banded) > 1 else "", dots)


def _says(name: str, x_label: str, point: Point) -> str:
    interval = "" if point.low is None or point.high is None else f" [{number(point.low)}, {number(point.high)}]"
    return f"{name}, {x_label} {number(point.x)}: {number(point.y)}{interval}"


def scale(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    """The range that bars (`zero`: they start at 0) or dots of these values span, ending on a round number for bars."""
    low, high = min(values), max(values)
    if not zero:
        return _room(low, high, 0.08)
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 0.0, 1.0
    step = ticks(low, high, 4)
    width = step[1] - step[0] if len(step) > 1 else high - low
    return math.floor(low / width + 1e-9) * width, math.ceil(high / width - 1e-9) * width


def percent(value: float, low: float, high: float) -> float:
    """Where `value` lies between low and high, in % of the width.

    >>> percent(5, 0, 20)
    25.0
    """
    return round(100 * (value - low) / (high - low), 2)
