"""Two runs over the same items, item by item: which is better, by how much, how surely, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinobench import lazy
from dinobench.errors import UserError, unknown_name
from dinobench.results.comparability import higher_is_better, match, read_records, reasons
from dinobench.results.items import read_items
from dinobench.stats.paired_tests import BinaryPairs, PairedTest, holm, paired_test
from dinobench.types import RunRecord

with lazy.imports():
    import numpy as np
    import pandas as pd

#: Columns whose items resemble each other, where the items do not name one: objects of a video, edits of an original.
CLUSTERS = ("video", "query", "original")
#: Columns that say where a difference lies, where the items have one.
WHERE = ("label", "video", "block", "class", "category")
#: A group below this many items says nothing on its own, except a video.
GROUP_ITEMS = 5
#: Characters of a weights digest that are enough to name it.
PREFIX = 6


@dataclass(frozen=True)
class MetricPair:
    """One metric of A and of B, and their difference A - B, all in the metric's unit.

    The interval is the 95 % one; `p` is two-sided and `p_holm` corrected over the primary metrics of all results.
    `groups` independent draws stand behind the `items`, which are fewer where items are clustered by `cluster`.
    `detectable` is the smallest difference that this many items show in 80 % of cases at the 5 % level. All are None
    without per-item scores, and `note` says why.
    """

    metric: str
    unit: str
    primary: bool
    higher_is_better: bool
    a: float
    b: float
    difference: float
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    items: int = 0
    groups: int = 0
    cluster: str | None = None
    won_a: int = 0
    won_b: int = 0
    tied: int = 0
    method: str = ""
    detectable: float | None = None
    note: str = ""


@dataclass(frozen=True)
class GroupDifference:
    """The primary metric within one class, video or block."""

    column: str
    group: str
    items: int
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class PairResult:
    """Two comparable runs: every metric, primary first, and groups by difference, those that A wins first."""

    run_a: RunRecord
    run_b: RunRecord
    metrics: tuple[MetricPair, ...]
    where: tuple[GroupDifference, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def primary(self) -> MetricPair:
        return self.metrics[0]


@dataclass(frozen=True)
class Pairing:
    """All that A and B have in common, and what could not be compared, one line each."""

    a: str
    b: str
    results: tuple[PairResult, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def pair(
    results: Path, a: str, b: str, results_b: Path | None = None, *, among: Sequence[RunRecord] | None = None
) -> Pairing:
    """Compare `a` with `b`, each a model's name, a run id or the start of a weights digest (six characters or more).

    `b` is looked up in `results_b` where that is given. among: those of `results` that count, by default all.

    Raises UserError when either is not there, when they have no comparable runs, and when the items of comparable runs
    are not the same.
    """
    found_a = read_records(results)[0] if among is None else among
    found_b, _ = read_records(results_b) if results_b else (found_a, [])
    chosen_a, chosen_b = select(found_a, a, results), select(found_b, b, results_b or results)
    if results_b is None and {r.run_id for r in chosen_a} == {r.run_id for r in chosen_b}:
        raise UserError(f"{a} and {b} are the same runs; name two different ones")
    matched = match(chosen_a, chosen_b)
    if not matched.pairs:
        raise UserError(f"{a} and {b} have no comparable runs: {_closest(chosen_a, chosen_b)}")
    compared, skipped = [], []
    for one, other in matched.pairs:
        try:
            compared.append(compare(results, one, results_b or results, other))
        except UserError as error:
            skipped.append(str(error))
    if not compared:
        raise UserError("; ".join(skipped))
    final = corrected(compared)
    skipped += [_alone(r, b, chosen_b) for r in matched.only_a]
    skipped += [_alone(r, a, chosen_a) for r in matched.only_b]
    return Pairing(a, b, final, tuple(skipped), matched.notes)


def _alone(record: RunRecord, other: str, others: Sequence[RunRecord]) -> str:
    near = [r for r in others if r.protocol == record.protocol]
    return f"{record.run_id}: {_closest([record], near) if near else f'{other} has no {record.protocol} run'}"


def corrected(results: Sequence[PairResult]) -> tuple[PairResult, ...]:
    """The results with the p of their primary metrics corrected over all of them, where they have one."""
    by_holm = iter(holm([r.primary.p for r in results if r.primary.p is not None]))
    return tuple(r if r.primary.p is None else _with_holm(r, next(by_holm)) for r in results)


def _with_holm(result: PairResult, p: float) -> PairResult:
    first = dataclasses.replace(result.primary, p_holm=p)
    return dataclasses.replace(result, metrics=(first, *result.metrics[1:]))


def select(records: Sequence[RunRecord], which: str, results: Path) -> list[RunRecord]:
    """The records that `which` names. Raises UserError when none, or weights of two kinds, go by it."""
    for chosen in ([r for r in records if r.run_id == which], [r for r in records if r.checkpoint.name == which]):
        if chosen:
            return chosen
    digests = {d for r in records if (d := r.checkpoint.weights_digest).startswith(which.lower())}
    if len(which) >= PREFIX and len(digests) == 1:
        return [r for r in records if r.checkpoint.weights_digest in digests]
    if len(which) >= PREFIX and digests:
        raise UserError(f"{which}: {len(digests)} weights digests in {results} begin like this; give more of one")
    names = sorted({r.checkpoint.name for r in records})
    raise UserError(f"{results}: {unknown_name('model, run id or weights digest', which, names)}")


def _closest(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> str:
    """What keeps the two runs apart that have the most in common."""
    same = [(one, other) for one in a for other in b if one.protocol == other.protocol]
    pairs = same or [(one, other) for one in a for other in b]
    apart = min((reasons(one, other) for one, other in pairs), key=len)
    return "; ".join(apart) or "a run of another seed or precision has been compared"


def compare(results_a: Path, a: RunRecord, results_b: Path, b: RunRecord) -> PairResult:
    """Two runs, item by item. Raises UserError when they are not comparable or scored different items."""
    if apart := reasons(a, b):
        raise UserError(f"{a.run_id} and {b.run_id} are not comparable: {'; '.join(apart)}")
    notes = ["both have the same weights"] if a.checkpoint.weights_digest == b.checkpoint.weights_digest else []
    if a.seed != b.seed or a.precision != b.precision:
        notes.append(f"seed {a.seed} and {b.seed}, precision {a.precision} and {b.precision}")
    items = aligned(results_a, a, results_b, b)
    names = [a.primary, *(name for name in a.metrics if name != a.primary and name in b.metrics)]
    metrics = tuple(_metric(name, a, b, items) for name in names)
    return PairResult(a, b, metrics, _where(a.primary, a, items), tuple(notes))


def aligned(results_a: Path, a: RunRecord, results_b: Path, b: RunRecord) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The items of both runs in the same order, or None when either kept none.

    Raises UserError when they are not the same items.
    """
    left, right = read_items(results_a, a), read_items(results_b, b)
    if left is None or right is None or "id" not in left or "id" not in right:
        return None
    names = f"{a.run_id} and {b.run_id}"
    if left["id"].equals(right["id"]):
        return left, right
    one, other = set(left["id"]), set(right["id"])
    if one != other:
        lacking = [
            f"{len(only):,} only in {run.run_id}, such as {min(map(str, only))[:100]}"
            for only, run in ((one - other, a), (other - one, b))
            if only
        ]
        raise UserError(f"{names} scored different items: {'; '.join(lacking)}; run one of them again")
    if len(one) < len(left) or len(one) < len(right):
        raise UserError(f"{names}: their items share ids and stand in different orders; run one of them again")
    return left, right.set_index("id").loc[left["id"]].reset_index()


def scores(
    metric: str, items: tuple[pd.DataFrame, pd.DataFrame], names: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str | None] | None:
    """Scores (n,) of A and of B where the metric counts, their clusters (n,) and the clusters' column, if any.

    None when the metric is no mean over items. Raises UserError when it counts for other items in A than in B.
    """
    left, right = items
    if metric not in left or metric not in right:
        return None
    a, b = (frame[metric].to_numpy(dtype=np.float64, na_value=np.nan) for frame in items)
    counts = ~np.isnan(a)
    if (counts != ~np.isnan(b)).any():
        first = left["id"].to_numpy()[counts != ~np.isnan(b)][0]
        raise UserError(f"{names} scored different items: {metric} of {first} is in one of them only")
    if not counts.any():
        return None
    cluster = left.attrs.get("cluster")
    column = next((c for c in ([cluster] if cluster else CLUSTERS) if c in left), None)
    return a[counts], b[counts], left[column].to_numpy()[counts] if column else None, column


def _metric(name: str, a: RunRecord, b: RunRecord, items: tuple[pd.DataFrame, pd.DataFrame] | None) -> MetricPair:
    value_a, value_b = a.metrics[name], b.metrics[name]
    plain = MetricPair(
        name, value_a.unit, name == a.primary, higher_is_better(a, name), value_a.value, value_b.value,
        value_a.value - value_b.value,
    )  # fmt: skip
    if items is None:
        return dataclasses.replace(plain, note="no per-item scores: neither interval nor p")
    values = scores(name, items, f"{a.run_id} and {b.run_id}")
    if values is None:
        return dataclasses.replace(plain, note="not a mean over items: neither interval nor p")
    one, other, clusters, column = values
    test = paired_test(one, other, clusters)
    scale = 100 if value_a.unit == "%" else 1
    low, high = test.interval()
    detectable = test.detectable()
    better, worse = int((one > other).sum()), int((one < other).sum())
    won_a, won_b = (better, worse) if plain.higher_is_better else (worse, better)
    return dataclasses.replace(
        plain, difference=scale * test.mean, ci_low=scale * low, ci_high=scale * high, p=test.p(), items=len(one),
        groups=test.groups, cluster=column if test.groups < len(one) else None, won_a=won_a, won_b=won_b,
        tied=len(one) - won_a - won_b, method=_method(test),
        detectable=None if detectable is None else scale * detectable,
        note="" if detectable is not None else f"{test.groups} draws are too few to show any difference",
    )  # fmt: skip


def _method(test: PairedTest) -> str:
    if isinstance(test, BinaryPairs):
        return "McNemar's exact test, Tango's score interval"
    return f"sign-flip test, {test.interval_method}"


def _where(
    metric: str, record: RunRecord, items: tuple[pd.DataFrame, pd.DataFrame] | None
) -> tuple[GroupDifference, ...]:
    """The primary metric per class, video or block, the largest difference in favour of A first."""
    if items is None or metric not in items[0] or metric not in items[1]:
        return ()
    scale = 100 if record.metrics[metric].unit == "%" else 1
    frame = pd.DataFrame({"a": items[0][metric].astype(float), "b": items[1][metric].astype(float)}) * scale
    for column in WHERE:
        if column not in items[0]:
            continue
        groups = frame.groupby(items[0][column].astype(str)).agg(n=("a", "count"), a=("a", "mean"), b=("b", "mean"))
        groups = groups[groups["n"] >= (1 if column == "video" else GROUP_ITEMS)]
        if len(groups) > 1:
            sign = 1 if higher_is_better(record, metric) else -1
            rows = [
                GroupDifference(column, str(group), int(n), float(a), float(b), float(a - b))
                for group, n, a, b in zip(groups.index, *(groups[c].to_numpy() for c in ("n", "a", "b")), strict=True)
            ]
            return tuple(sorted(rows, key=lambda g: (-sign * g.difference, g.group)))
    return ()
