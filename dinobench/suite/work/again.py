"""The part of a plan that failed when it was last run, to be run again."""

from __future__ import annotations

import dataclasses

from dinobench.suite.cells import Plan, State
from dinobench.suite.plan import groups_of


def of_failed(planned: Plan) -> Plan:
    """The plan with the cells that failed as all that is to do; refused ones are not among them (see `standing`)."""
    failed = [dataclasses.replace(c, state=State.TODO) for c in planned.cells if c.state is State.FAILED]
    by_key = {cell.key: cell for cell in failed}
    cells = tuple(by_key.get(cell.key, cell) for cell in planned.cells)
    return Plan(planned.suite, cells, tuple(groups_of(planned.suite, failed)))
