"""`dinobench bench`: how fast this machine is, beside the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dinobench.bench import BENCHES, GROUPS, measure_bench
from dinobench.cli.display import runs
from dinobench.cli.options import Device


def bench(
    what: Annotated[str, typer.Argument(help=f"What to measure: {', '.join(BENCHES)}, or {' or '.join(GROUPS)}.")],
    arch: Annotated[str | None, typer.Option(help="Model of features and davis, where not the usual one.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Number of files that features and scale read, where not the usual one.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each, taken in turn; the median counts.")] = 3,
    scale: Annotated[
        float, typer.Option(min=1e-4, max=1, help="Share of ImageNet's 50,000 queries that memory searches with.")
    ] = 0.02,
    cells: Annotated[int | None, typer.Option(min=1, help="Evaluations of suite, where not the usual number.")] = None,
    device: Device = "auto",
    write: Annotated[
        Path | None, typer.Option(help="Markdown file to put the table into, between its two bench marks.")
    ] = None,
) -> None:
    """How this machine does against the limit: ratios measured in this very run."""
    from dinobench.bench import table

    if write is not None:
        table.check(write)
    rows = measure_bench(
        what, runs.bench, arch=arch, images=images, repeats=repeats, scale=scale, cells=cells, device=device
    )
    if what in GROUPS:
        typer.echo(table.markdown(rows, table.machine(device)))
    if write is not None:
        table.put(write, table.markdown(rows, table.machine(device)))
