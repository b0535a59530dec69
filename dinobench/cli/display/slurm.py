"""What of a suite was submitted to SLURM, or would be."""

from __future__ import annotations

from dinobench import console
from dinobench.suite.cells import Plan
from dinobench.suite.slurm import Array, Submitted


def submitted(found: Plan, done: Submitted, dry_run: bool) -> None:
    """A line for each job array, and how to see what becomes of them; of a dry run also which cells each task has."""
    name = found.suite.source.shown
    for array in done.arrays:
        console.text(_array(array, dry_run))
    if done.queued:
        console.note(f"{_number(done.queued, 'cell')} in the queue already")
    if not done.arrays:
        console.note(f"nothing to submit; `dinobench suite status {name}` shows how it stands")
    elif dry_run:
        console.note("nothing was submitted: leave out --dry-run for that")
    else:
        console.note(f"`dinobench suite status {name} --watch` shows how it goes on, `squeue` the jobs")


def _array(array: Array, dry_run: bool) -> str:
    tasks = f"{_number(len(array.groups), 'task')} of {_number(array.cells, 'cell')}"
    head = f"job {array.job}: {tasks}" if array.job else f"a job array: {tasks}"
    if not dry_run:
        return head
    cells = [
        f"  task {number}: " + ", ".join(f"{c.protocol} ({c.label}) of {c.model} on {c.dataset}" for c in group.cells)
        for number, group in enumerate(array.groups)
    ]
    return "\n".join([head, *(f"  {line}" for line in asked(array)), *cells])


def asked(array: Array) -> list[str]:
    """What an array asks SLURM for, in sbatch's own words."""
    named = {name: value for name, value in array.options.items() if isinstance(value, str | int)}
    parallel, named["signal"] = named.pop("array_parallelism", None), f"USR2@{named.pop('signal_delay_s')}"
    named.pop("stderr_to_stdout", None)
    named |= array.options.get("additional_parameters", {})
    lines = [f"--{name.replace('_', '-')}" + ("" if v is True else f"={v}") for name, v in sorted(named.items())]
    return lines + ([f"at most {parallel} tasks at once"] if parallel else [])


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
