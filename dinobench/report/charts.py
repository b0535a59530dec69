"""The report's plots of scores: bars with intervals, k-NN over k, Jaccard over the attention kept."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dinobench.hashing import digest
from dinobench.report.svg import BARS, Bar, Bars, Chart, Point, Series, chart, number, percent, scale
from dinobench.results.comparability import higher_is_better, key
from dinobench.types import MetricValue, RunRecord


@dataclass
class Group:
    """Records that may be ranked against each other, the best first; the first is tied with the next `tied` ones."""

    records: list[RunRecord]
    higher_is_better: bool
    tied: int = 0

    def __post_init__(self) -> None:
        sign = -1 if self.higher_is_better else 1
        self.records.sort(key=lambda r: (math.isnan(v := value(r)), sign * v, r.checkpoint.name, r.run_id))


def value(record: RunRecord) -> float:
    """The primary score."""
    return primary(record).value


def primary(record: RunRecord) -> MetricValue:
    """The primary metric."""
    return record.metrics[record.primary]


def interval(m: MetricValue) -> tuple[float | None, float | None]:
    """The ends of its interval that can be drawn: a record's file may hold NaN and infinity."""
    low, high = (None if x is None or not math.isfinite(x) else x for x in (m.ci_low, m.ci_high))
    return low, high


def groups(records: Iterable[RunRecord]) -> list[Group]:
    """Comparable records together, by protocol, data set and profile."""
    by_key: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in sorted(records, key=lambda r: (r.protocol, r.dataset, r.profile, r.config_hash, r.run_id)):
        by_key.setdefault((key(record), record.primary), []).append(record)
    return [Group(members, higher_is_better(members[0], members[0].primary)) for members in by_key.values()]


def _describes(record: RunRecord) -> str:
    return f"{record.protocol} on {record.dataset}"


def bars_of(group: Group) -> Bars:
    """The primary scores of comparable runs, from zero."""
    first = group.records[0]
    unit = primary(first).unit
    shown = [r for r in group.records if math.isfinite(value(r))][:BARS]
    bounds = [v for r in shown for v in (value(r), *interval(primary(r))) if v is not None]
    low, high = scale(bounds or [0.0], zero=True)
    bars = []
    for r in shown:
        m = primary(r)
        zero, end = sorted((percent(0, low, high), percent(m.value, low, high)))
        ci_low, ci_high = (percent(x, low, high) if x is not None else None for x in interval(m))
        best = not group.tied and len(shown) > 1 and m.value == value(shown[0])
        shares = zero, round(end - zero, 2), ci_low, ci_high
        bars.append(Bar(r.checkpoint.name, _said(m), f"{m.value:.2f}", *shares, best, r.run_id))
    less = "" if group.higher_is_better else "lower is better"
    tied = f"the best {group.tied + 1} are tied" if group.tied else ""
    parts = first.profile, first.primary, f"n\u00a0=\u00a0{primary(first).n:,}", less, tied
    note = " · ".join(filter(None, parts))
    hidden = len(group.records) - len(shown)
    return Bars(_describes(first), note, number(low), f"{number(high)} {unit}", bars, hidden)


def _said(m: MetricValue) -> str:
    interval = "" if m.ci_low is None or m.ci_high is None else f", 95 % interval {m.ci_low:.2f} to {m.ci_high:.2f}"
    return f"{m.value:.2f}{interval}"


def _sweep(record: RunRecord, mark: str) -> list[Point]:
    """A record's metrics `<name><mark><x>` over x, where <name> is that of its primary metric."""
    stem = re.escape(record.primary.split("@")[0] + mark)
    matches = ((re.fullmatch(stem + r"(\d+(?:\.\d+)?)", name), m) for name, m in record.metrics.items())
    return [Point(float(x[1]), m.value, *interval(m)) for x, m in matches if x]


def over_k(groups: Sequence[Group], tones: dict[str, int]) -> list[Chart]:
    """k-NN as a function of k, for every group of comparable runs that was scored at several k."""
    charts = []
    for group in groups:
        first = group.records[0]
        series = [Series(r.checkpoint.name, _sweep(r, "@k"), tones[r.checkpoint.name]) for r in group.records]
        at = sorted({p.x for s in series for p in s.points})
        if len(at) > 1:
            name = f"{first.primary.split('@')[0]} ({primary(first).unit})"
            charts.append(chart(_describes(first), series, "k", name, x_at=at, log_x=True, note=first.profile))
    return [c for c in charts if c]


def over_mass(records: Sequence[RunRecord], tones: dict[str, int]) -> list[Chart]:
    """Jaccard as a function of the attention kept, from sweeps within runs and runs that differ only in `keep`."""
    by_key: dict[str, dict[str, tuple[RunRecord, dict[float, Point]]]] = {}
    for r in records:
        if not isinstance(keep := r.config.get("keep"), int | float):
            continue
        rest = {k: v for k, v in r.config.items() if k not in ("keep", "sweep")}
        question = digest(r.protocol, r.protocol_version, rest, r.dataset_fingerprint, r.broken_images)
        m = primary(r)
        model = f"{r.checkpoint.name}\n{r.checkpoint.weights_digest}"
        _, points = by_key.setdefault(question, {}).setdefault(model, (r, {}))
        points.update({p.x: p for p in [*_sweep(r, "@"), Point(float(keep), m.value, *interval(m))]})
    charts = []
    for lines in by_key.values():
        series = [Series(r.checkpoint.name, list(p.values()), tones[r.checkpoint.name]) for r, p in lines.values()]
        if any(len(s.points) > 1 for s in series):
            first = next(r for r, _ in lines.values())
            name = f"{first.primary} ({primary(first).unit})"
            note = re.sub(r"\+?\bkeep=[^+]*", "", first.profile)
            charts.append(chart(_describes(first), series, "share of the attention kept", name, note=note))
    return [c for c in charts if c]
