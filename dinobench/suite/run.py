"""A suite in one call: read, planned and run on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dinobench import console
from dinobench.results import records
from dinobench.suite.cells import Plan, State
from dinobench.suite.file import Suite, read
from dinobench.suite.plan import plan
from dinobench.suite.task import Told
from dinobench.suite.work import failures
from dinobench.suite.work.folders import Folders
from dinobench.suite.work.local import run_locally
from dinobench.types import RunRecord


def run_suite(
    suite: str | Path | Suite,
    *,
    ckpt: Sequence[str] = (),
    out: str | Path | None = None,
    limit: int | None = None,
    scale: str | None = None,
    trust_repo: bool = False,
    device: str = "auto",
    processes: int | None = None,
    told: Told = lambda event: None,
    tick: Callable[[], None] = lambda: None,
) -> list[RunRecord]:
    """Run what a suite lacks, and return all of its records, in the order of its file.

    suite: a path, the name of a built-in one, or what `dinobench.suite.read` made of either; ckpt, out, limit and
    scale and trust_repo as there. processes: one a device where None. told, tick: see `run_locally`. What has no record
    in the end is warned of, and why stands in `<out>/failed/`.

    Raises UserError for mistakes in the file, and Interrupted where a signal ended it.
    """
    how: dict[str, Any] = {"ckpt": ckpt, "out": out, "limit": limit, "scale": scale, "trust_repo": trust_repo}
    found = suite if isinstance(suite, Suite) else read(suite, **how)
    run_locally(plan(found), device=device, processes=processes, told=told, tick=tick)
    after = plan(found)
    for cell in after.cells:
        if cell.state not in (State.DONE, State.NOT_APPLICABLE):
            failed = failures.read(Folders(found.out, found.name).failed(cell.key))
            why = cell.reason if failed is None else f"{failed.kind}: {failed.message}"
            console.warn(f"{cell.protocol} of {cell.model} on {cell.dataset} has no record: {why}")
    return records_of(after)


def records_of(done: Plan) -> list[RunRecord]:
    """The records of the cells that are done."""
    ids = [run_id for cell in done.cells if cell.state is State.DONE for run_id in cell.run_ids]
    return [record for run_id in dict.fromkeys(ids) if (record := records.read(done.suite.out, run_id)) is not None]
