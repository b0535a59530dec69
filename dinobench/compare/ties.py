"""Which runs the paired test cannot tell from the best one: no table calls that one the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from dinobench.compare.pair import aligned, scores
from dinobench.errors import UserError
from dinobench.results.vouched import Facts
from dinobench.stats.paired_tests import ALPHA, paired_test
from dinobench.types import RunRecord

#: Whether two runs can be told apart by a metric; None where that cannot be tested.
Tell: TypeAlias = Callable[[RunRecord, RunRecord, str], bool | None]
#: Runs after the best that are tested at most: a column of thousands would take minutes.
TESTED = 20
NOTE = (
    "tied: no paired test over the items of both tells it from the best of its group "
    f"(p ≥ {ALPHA:g}; McNemar's exact test where scores are right or wrong, sign flips elsewhere)"
)


class TellByItems:
    """A `Tell`: two-sided at the 5 % level, over the per-item scores in `results`; runs without items cannot be tested.

    What was found is remembered when the `with` block ends.
    """

    def __init__(self, results: Path) -> None:
        self.results, self.facts = results, Facts(results)

    def __enter__(self) -> TellByItems:
        return self

    def __exit__(self, *_: object) -> None:
        self.facts.keep()

    def __call__(self, best: RunRecord, other: RunRecord, metric: str) -> bool | None:
        told: bool | None = self.facts.of(
            (best, other), f"told apart by {metric}", lambda: self._test(best, other, metric)
        )
        return told

    def _test(self, best: RunRecord, other: RunRecord, metric: str) -> bool | None:
        try:
            items = aligned(self.results, best, self.results, other)
            pairs = scores(metric, items, f"{best.run_id} and {other.run_id}") if items else None
        except UserError:  # items that are damaged, or others: the numbers still rank
            return None
        if pairs is None:
            return None
        one, two, clusters, _ = pairs
        return bool(paired_test(one, two, clusters).p() < ALPHA)


def tied(ranked: Sequence[RunRecord], metric: str, tell: Tell) -> int:
    """How many of `ranked`, best first, are tied with the first: those before the first that can be told from it.

    >>> tied(["a", "b", "c"], "top1", lambda best, other, metric: other == "c")
    1
    """
    for count, other in enumerate(ranked[1 : 1 + TESTED]):
        if tell(ranked[0], other, metric) is not False:
            return count
    return min(len(ranked) - 1, TESTED)
