"""`dinobench suite`: one file of models, protocols and data, planned here and run anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dinobench import console
from dinobench.cli.options import Device, Json, TrustRepo, finite

if TYPE_CHECKING:
    from dinobench.suite.file import Suite

suite_app = typer.Typer(
    help="Models by protocols by data in one file: what is done of it, and what is to do.", no_args_is_help=True
)

#: What every command on a suite takes.
Reference = Annotated[
    str, typer.Argument(metavar="SUITE", help="A suite's file, or a built-in suite by its name: see `suite list`.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--ckpt", help="A model in the place of the file's, optionally as name=...; may be repeated."),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Use so many images of every split; such scores are never ranked with those of all."),
]
SuiteOut = Annotated[Path | None, typer.Option("--out", help="Results folder, in the place of the file's.")]
Scale = Annotated[str | None, typer.Option(help="Which of the file's [scales], in the place of its `scale`.")]
MaxHours = Annotated[
    float | None, typer.Option(min=0, callback=finite, help="Refuse when more than so many hours are to do.")
]


def opened(
    reference: str,
    ckpt: list[str] | None,
    out: Path | None,
    limit: int | None,
    scale: str | None,
    trust_repo: bool,
) -> Suite:
    """The suite, checked. Each mistake in its file is a line, and then the command ends with code 2."""
    from dinobench.suite import Mistakes, read

    try:
        return read(reference, ckpt=ckpt or (), out=out, limit=limit, scale=scale, trust_repo=trust_repo)
    except Mistakes as mistakes:
        for line in mistakes.lines:
            console.error(line)
        raise typer.Exit(2) from None


@suite_app.command("plan")
def plan_(
    suite: Reference,
    ckpt: Models = None,
    limit: Limit = None,
    out: SuiteOut = None,
    scale: Scale = None,
    trust_repo: TrustRepo = False,
    max_hours: MaxHours = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time here, on a few images or steps, what no earlier run tells of.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Every cell of a suite: done, to do, not applicable or its input missing, and how long it takes.

    Exits with 2 where an input is missing.
    """
    from dinobench.cli.display import suites
    from dinobench.suite.plan import plan

    found = plan(opened(suite, ckpt, out, limit, scale, trust_repo), measure=device if measure else None)
    console.text(suites.plan_json(found)) if json else suites.plan(found)
    for line in found.missing():
        console.error(line)
    if max_hours is not None:
        found.refuse_above(max_hours)
    if found.missing():
        raise typer.Exit(2)


@suite_app.command()
def show(suite: Reference) -> None:
    """Print a suite's file, to copy and change."""
    from dinobench.suite.file import source_text

    console.text(source_text(suite)[0].rstrip("\n"))


@suite_app.command("list")
def list_() -> None:
    """The suites that come with the package."""
    from dinobench.cli.display import suites

    suites.built_in()
