"""Runs whose numbers should not be believed before somebody has looked: each flag is one line with its reason."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from dinobench import lazy
from dinobench.compare.ties import TESTED, Tell, TellByItems
from dinobench.errors import UserError
from dinobench.results.comparability import higher_is_better, key
from dinobench.results.items import labels
from dinobench.results.vouched import Facts
from dinobench.types import RunRecord

with lazy.imports():
    import numpy as np

#: Methods that have learnt nothing: at chance, or alike, is what is expected of them.
UNTRAINED = ("random", "pixels")
#: Scores of fewer items than this are equal by accident.
ENOUGH = 100
#: A random order of finitely many items has a slightly higher average precision than the share of positives.
ORDER = 1.05


def flags(results: Path, records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Run id -> what is suspicious about the run; runs that nothing speaks against are left out.

    Reads records, of each data set the labels of one run, and the items of runs that may be no better than an untrained
    network, so that ten thousand runs take no time.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    by_key: dict[Hashable, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_key[key(record)].append(record)
    chance = _Chance(results)
    with TellByItems(results) as tell:
        for group in by_key.values():
            for record, reason in (*_alone(group, chance), *_like_random(group, tell), *_identical(group)):
                reasons[record.run_id].append(reason)
    chance.facts.keep()
    return dict(reasons)


def _alone(group: Sequence[RunRecord], chance: _Chance) -> Iterable[tuple[RunRecord, str]]:
    """What one record tells by itself: leaks, nothing wrong, nothing right, no better than guessing."""
    for record in group:
        if record.leak:
            yield record, record.leak
        metric, value = record.primary, record.metrics[record.primary]
        if value.unit != "%" or not higher_is_better(record, metric):
            continue
        if value.value >= 100:
            yield record, f"{metric} is 100 %: are the test images, or their labels, among those learnt from?"
        elif value.value <= 0:
            yield record, f"{metric} is 0 %: nothing is right, not even by accident"
        elif record.checkpoint.method not in UNTRAINED:
            level = chance.of(record)
            low = value.ci_low if value.ci_low is not None else value.value
            if level is not None and low <= level:
                yield record, f"{metric} {value.value:.2f} is no better than guessing, which gives {level:.2f}"


class _Chance:
    """Scores that take no image to get, from the labels among the items of one run per data set and question."""

    def __init__(self, results: Path) -> None:
        self.results, self.facts = results, Facts(results)
        self.known: dict[Hashable, list[float]] = {}

    def of(self, record: RunRecord) -> float | None:
        """In per cent, or None where the metric is of another kind or the items have no labels."""
        metric = record.primary.partition("@")[0]
        if metric not in ("top1", "mAP"):
            return None
        question = record.protocol, record.dataset_fingerprint
        if question not in self.known:
            found = self.facts.of([record], "the largest share of a class, and the sum of squared shares",
                                  lambda: self._shares(record))  # fmt: skip
            if found is not None:
                self.known[question] = found
        if not (shares := self.known.get(question)):
            return None
        return 100 * shares[0] if metric == "top1" else 100 * ORDER * shares[1]

    def _shares(self, record: RunRecord) -> list[float] | None:
        """Of the classes among the items: the largest, and the sum of squares.

        Nothing where they have no labels, None without a file.
        """
        try:
            found = labels(self.results, record)
        except (UserError, OSError):
            return []  # a broken file of items is no reason to doubt the number
        if found is None:
            return None
        counts = found.value_counts().field("counts").to_numpy()
        shares: np.ndarray = counts / max(1, counts.sum())
        return [float(shares.max()), float((shares**2).sum())] if len(shares) else []


def _half_width(record: RunRecord) -> float:
    value = record.metrics[record.primary]
    return 0.0 if value.ci_low is None or value.ci_high is None else (value.ci_high - value.ci_low) / 2


def _like_random(group: Sequence[RunRecord], tell: Tell) -> Iterable[tuple[RunRecord, str]]:
    """Trained backbones that are no better than an untrained one of the same architecture.

    Where their intervals leave that open a paired test decides, as it does in tables, of those furthest ahead; where
    there are no items, the intervals do.
    """
    near: list[tuple[float, float, RunRecord, RunRecord]] = []
    random = {r.checkpoint.arch: r for r in group if r.checkpoint.method == "random"}
    digests = {r.checkpoint.weights_digest for r in group if r.checkpoint.method == "random"}
    for record in group:
        other = random.get(record.checkpoint.arch)
        if other is None or record.checkpoint.method in UNTRAINED:
            continue
        if record.checkpoint.weights_digest in digests:
            yield record, "its weights are those of an untrained backbone"
            continue
        own, untrained = (r.metrics[r.primary].value for r in (record, other))
        ahead = own - untrained if higher_is_better(record, record.primary) else untrained - own
        noise = math.hypot(_half_width(record), _half_width(other))
        if ahead <= noise:
            near.append((ahead, noise, record, other))
    near.sort(key=lambda entry: -entry[0])
    for count, (ahead, noise, record, other) in enumerate(near):
        told = tell(record, other, record.primary) if count < TESTED else None
        if told and ahead > 0:
            continue
        how = "below" if (ahead < -noise if told is None else told) else "within noise of"
        own, untrained = (r.metrics[r.primary].value for r in (record, other))
        yardstick = f"an untrained {record.checkpoint.arch}'s {untrained:.2f} ({other.run_id})"
        yield record, f"{record.primary} {own:.2f} is {how} {yardstick}"


def _identical(group: Sequence[RunRecord]) -> Iterable[tuple[RunRecord, str]]:
    """Different weights with the same score to the last digit in every metric: was one of them really loaded?"""
    alike: dict[Hashable, list[RunRecord]] = defaultdict(list)
    for record in group:
        values = [m.value for m in record.metrics.values()]
        if record.metrics[record.primary].n >= ENOUGH and not all(v in (0, 100) for v in values):
            alike[tuple(record.metrics), tuple(values)].append(record)
    for same in alike.values():
        first = same[0]
        second = next((r for r in same if r.checkpoint.weights_digest != first.checkpoint.weights_digest), None)
        for record in same if second else ():
            other = first if record.checkpoint.weights_digest != first.checkpoint.weights_digest else second
            assert other is not None
            yield record, f"the same scores to the last digit as other weights: {other.run_id}"
