"""`dinobench check`: are a results folder's records whole, and their items those that they were made from?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from dinobench import console
from dinobench.cli.options import Results
from dinobench.types import RunRecord


def check(
    results: Results,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Write the digest of their items into records that were made without.")
    ] = False,
) -> None:
    """Look through all records and their items; exit code 1 when one is broken or contradicts its items."""
    from dinobench.results import records
    from dinobench.results.items import digest_of
    from dinobench.results.listing import read_folder, require_runs

    def progress(unread: Sequence[RunRecord]) -> Iterator[RunRecord]:
        return console.progress(unread, "Checking records")

    require_runs(results)
    sound, broken = read_folder(results, afresh=True, progress=progress)
    old = [r for r in sound if r.items_sha256 is None and digest_of(results, r.run_id)]
    for record in old if upgrade else ():
        records.upgrade(results, record)
    for path, reason in broken:
        console.warn(f"{path}: {reason}")
    console.note(
        f"{results}: {len(sound) + len(broken):,} records read, {len(broken):,} broken or contradicted by their items"
    )
    if old and upgrade:
        console.note(f"{len(old):,} records now hold the digest of their items")
    elif old:
        console.note(
            f"{len(old):,} records lack the digest of their items, which only their means vouch for: --upgrade"
        )
    if broken:
        raise typer.Exit(1)
