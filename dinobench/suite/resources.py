"""What tasks ask a cluster for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dinobench.suite.file import Resources

#: Memory as SLURM and everybody else writes it.
MEMORY = re.compile(r"(?P<number>[1-9]\d*(\.\d+)?)(?P<unit>[KMGT])i?B?", re.IGNORECASE)


def memory_bytes(text: str) -> float:
    """
    >>> memory_bytes("32GB") > memory_bytes("500M")
    True
    """
    match = MEMORY.fullmatch(text)
    assert match is not None, text
    return float(match["number"]) * 1024 ** (" KMGT".index(match["unit"].upper()))


def together(asked: Sequence[Resources]) -> Resources:
    """What a task asks for whose cells ask for these: the most that one of them does.

    The hours too: a task that is stopped after them goes on when it is started again.
    """
    return Resources(
        devices=max(one.devices for one in asked),
        cpus=max(one.cpus for one in asked),
        memory=max((one.memory for one in asked), key=memory_bytes),
        hours=max(one.hours for one in asked),
    )
