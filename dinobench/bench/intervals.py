"""The interval of a metric beside the draws that a bootstrap cannot do without."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dinobench.bench.measure import BenchRow, in_turn
from dinobench.stats.intervals import RESAMPLES, bootstrap_interval

#: Seconds that a metric's interval may take.
SECONDS = 2.0
#: Items of a group on average, where the items are grouped: the images of a class, the points of a pair.
GROUP = 5


def intervals(repeats: int = 3, scores: int = 50_000) -> list[BenchRow]:
    """Items with scores that all differ, as many as ImageNet has val images, and as many groups of items."""
    rng = np.random.default_rng(0)
    values, more = rng.random(scores), rng.random(GROUP * scores)
    groups = rng.integers(0, scores, len(more))
    threads = os.cpu_count() or 1

    def draws() -> None:
        def share(seed: int) -> None:
            own = np.random.Generator(np.random.SFC64(seed))
            for _ in range(-(-RESAMPLES // threads)):
                own.integers(2**64, size=(scores + 1) // 2, dtype=np.uint64)  # as ours: two items of one number

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(share, range(threads)))

    calls = [
        lambda: bootstrap_interval(values) and None,
        lambda: bootstrap_interval(more, clusters=groups) and None,
        draws,
    ]
    *ours, limit = in_turn(calls, repeats)
    kinds = (f"{scores:,} distinct scores", f"{len(more):,} scores in groups of {GROUP} on average")
    return [
        BenchRow(
            f"interval of {kind}", f"{taken:.2f} s", f"{limit:.2f} s the draws alone", taken / limit,
            f"at most {SECONDS:g} s", taken <= SECONDS,
        )
        for kind, taken in zip(kinds, ours, strict=True)
    ]  # fmt: skip
