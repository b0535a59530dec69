"""`dinobench check`: are a results folder's records whole, and their items those that they were made from?"""

from __future__ import annotations

from typing import Annotated

import typer

from dinobench import console
from dinobench.cli.options import Results
from dinobench.errors import UserError


def check(
    results: Results,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Write the digest of their items into records that were made without.")
    ] = False,
) -> None:
    """Look through all records and their items; exit code 1 when one is broken or contradicts its items."""
    from dinobench.results import records
    from dinobench.results.items import contradiction, digest_of

    if not (results / "runs").is_dir():
        raise UserError(f"{results}: no runs/ folder in it; `dinobench run --out {results} ...` makes one")
    whole, broken = records.read_all(results)
    old = 0
    for record in console.progress(whole, "Checking records"):
        if reason := contradiction(results, record):
            broken.append((results / "runs" / f"{record.run_id}.json", reason))
        elif record.items_sha256 is None and digest_of(results, record.run_id):
            old += 1
            if upgrade:
                records.upgrade(results, record)
    for path, reason in sorted(broken):
        console.warn(f"{path}: {reason}")
    console.note(f"{results}: {len(whole):,} records read, {len(broken):,} broken or contradicted by their items")
    if old and upgrade:
        console.note(f"{old:,} records now hold the digest of their items")
    elif old:
        console.note(f"{old:,} records lack the digest of their items, which only their means vouch for: --upgrade")
    if broken:
        raise typer.Exit(1)
