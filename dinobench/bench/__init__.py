"""How this machine does against its limits: ratios measured in one run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dinobench import console
from dinobench.errors import unknown_name

if TYPE_CHECKING:
    from dinobench.bench.measure import BenchRow

__all__ = ["BENCHES", "GROUPS", "measure_bench"]

#: What there is to measure -> where, as module:function, imported when asked for.
BENCHES = {
    "knn": "knn:knn",
    "memory": "knn:memory",
    "decoding": "features:decoding",
    "features": "features:features",
    "scale": "scale:scale",
    "davis": "dense.davis:davis",
    "discovery": "dense.discovery:discovery",
    "correspondence": "dense.correspondence:correspondence",
    "segmentation": "dense.segmentation:segmentation",
    "incontext": "dense.incontext:incontext",
    "depth": "dense.depth:depth",
    "probes": "probes:probes",
    "logreg": "probes:regression_memory",
    "intervals": "intervals:intervals",
    "retrieval": "retrieval:retrieval",
    "pretrain": "pretrain:pretrain",
    "precision": "pretrain:precision",
    "start": "start:start",
    "records": "records:records",
    "suite": "suite:suite",
}


#: What measures several of them, one after the other.
GROUPS = {
    "all": tuple(BENCHES),
    "dense": ("davis", "discovery", "correspondence", "segmentation", "incontext", "depth"),
}


def measure_bench(
    name: str, finished: Callable[[list[BenchRow]], None] = lambda rows: None, **options: Any
) -> list[BenchRow]:
    """The rows of a bench, or of one of `GROUPS`; of `options` those that it takes and that are not None.

    `finished` gets the rows of each bench as soon as they are there: all of them take long, and may be interrupted.
    Raises UserError for its name.
    """
    if name in GROUPS:
        rows: list[BenchRow] = []
        for number, each in enumerate(GROUPS[name], 1):
            console.note(f"[{number}/{len(GROUPS[name])}] {each}")
            rows += measure_bench(each, finished, **options)
        return rows
    if name not in BENCHES:
        raise unknown_name("bench", name, [*GROUPS, *BENCHES])
    module, _, function = BENCHES[name].partition(":")
    bench: Callable[..., list[BenchRow]] = getattr(import_module(f"{__name__}.{module}"), function)
    taken = inspect.signature(bench).parameters
    rows = bench(**{key: value for key, value in options.items() if key in taken and value is not None})
    finished(rows)
    return rows
