"""How long a cell takes, timed on a few images: for plans of what nobody ran before.

Two short runs, on few items of every split and on some more, tell what a run takes anyway and what every item adds.
What grows faster than the items is underestimated so, and what cells share is counted with each of them.
"""

from __future__ import annotations

import time

from dinobench import console, lazy
from dinobench.errors import UserError
from dinobench.evaluations import Evaluation
from dinobench.suite.cells import Cell
from dinobench.suite.estimates import UNKNOWN
from dinobench.types import ComputeOptions

with lazy.imports():
    from dinobench.data.limits import CUTS
    from dinobench.runner import run

#: Items of every split in the two runs.
FEW, MORE = 32, 128
#: Seconds after which one run is enough.
ENOUGH = 60.0


class Stopwatch:
    """Times cells on a device; those that differ in weights and seed alone once."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._timed: dict[tuple[object, ...], tuple[float | None, str]] = {}

    def __call__(self, cell: Cell, evaluation: Evaluation) -> tuple[float | None, str]:
        """(seconds, what they were timed on); None where the cell can't be run on a few items."""
        alike = cell.protocol, cell.label, cell.data, cell.tests, evaluation.backbone.info.arch, cell.compute
        if alike not in self._timed:
            console.note(f"timing {cell.protocol} {cell.label} with {cell.model} on a few items of {cell.dataset}")
            try:
                with console.hushed():
                    self._timed[alike] = self._time(cell, evaluation)
            except UserError as error:
                console.warn(f"{cell.protocol} on {cell.dataset} can't be timed: {error}")
                self._timed[alike] = None, UNKNOWN
        return self._timed[alike]

    def _time(self, cell: Cell, evaluation: Evaluation) -> tuple[float | None, str]:
        points: list[tuple[int, float]] = []
        whole = 0
        for limit in (FEW, FEW, MORE):  # the first time imports and warms up what the others find ready
            limit = min(limit, cell.limit or limit)
            kept, whole = sizes(evaluation, limit)
            began = time.monotonic()
            if not run(
                cell.protocol, cell.ckpt, cell.data, test=cell.tests, profile=cell.profile, settings=cell.settings,
                limit=limit, seed=cell.seed, out=None, skip_broken=cell.compute.skip_broken, loading=cell.loading,
                compute=cell.compute.on(ComputeOptions(device=self.device, cache=False)),
            ):  # fmt: skip
                return None, UNKNOWN
            points.append((kept, time.monotonic() - began))
            if points[-1][1] > ENOUGH or kept == whole:
                break
        first, last = points[-2:] if len(points) > 2 else (None, points[-1])
        return extrapolated(first, last, whole), f"timed here on {last[0]:,} of {whole:,} items ({self.device})"


def sizes(evaluation: Evaluation, limit: int) -> tuple[int, int]:
    """(items that are left where each split has so many at most, all items) of what is evaluated."""
    _, told = CUTS[evaluation.protocol.data](evaluation.data, limit)
    return sum(kept for kept, _, _ in told), sum(before for _, before, _ in told)


def extrapolated(first: tuple[int, float] | None, last: tuple[int, float], whole: int) -> float:
    """Seconds for `whole` items on the line through two measurements (items, seconds), or through one and the origin.

    >>> extrapolated((10, 2.0), (30, 4.0), 100), extrapolated(None, (10, 2.0), 100)
    (11.0, 20.0)
    """
    if first is None or first[0] >= last[0]:
        return last[1] * whole / last[0]
    rate = max(last[1] - first[1], 0.0) / (last[0] - first[0])
    return last[1] + rate * (whole - last[0])
