"""`dinobench suite run`, `retry` and `status`: a suite on this machine, and how any stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinobench import console
from dinobench.cli.options import Device, Json, TrustRepo
from dinobench.cli.suite import Limit, MaxHours, Models, Reference, Scale, SuiteOut, opened
from dinobench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dinobench.suite.cells import Plan
    from dinobench.suite.file import Suite
    from dinobench.suite.work.status import Status

#: Seconds between two looks of `status --watch` at the records.
AGAIN = 5.0

Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes to run at once; else one per device, and one on a CPU.")
]

LAUNCHERS = ("local", "slurm")
Launcher = Annotated[str, typer.Option(help="local: here; slurm: submit job arrays to the cluster, and return.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --launcher slurm: say what would be submitted.")]


def run(
    suite: Reference,
    ckpt: Models = None,
    limit: Limit = None,
    out: SuiteOut = None,
    scale: Scale = None,
    trust_repo: TrustRepo = False,
    max_hours: MaxHours = None,
    device: Device = "auto",
    processes: Processes = None,
    launcher: Launcher = "local",
    dry_run: DryRun = False,
) -> None:
    """Run what a suite lacks, on this machine or on SLURM; the same command goes on where it was ended.

    Exits with 1 where a cell has failed, with 2 where inputs alone are at fault.
    """
    from dinobench.suite.plan import plan

    _check(launcher, dry_run, device, processes)
    found = plan(opened(suite, ckpt, out, limit, scale, trust_repo))
    if max_hours is not None:
        found.refuse_above(max_hours)
    _submit(found, dry_run) if launcher == "slurm" else _run(found, device, processes)


def retry(
    suite: Reference,
    ckpt: Models = None,
    limit: Limit = None,
    out: SuiteOut = None,
    scale: Scale = None,
    trust_repo: TrustRepo = False,
    device: Device = "auto",
    processes: Processes = None,
    launcher: Launcher = "local",
    dry_run: DryRun = False,
) -> None:
    """Run again the cells of a suite that failed; what was refused for its input is not among them.

    `suite run` tries that again, as the input may have been mended.
    """
    from dinobench.suite.plan import plan
    from dinobench.suite.work.again import of_failed

    _check(launcher, dry_run, device, processes)
    found = of_failed(plan(opened(suite, ckpt, out, limit, scale, trust_repo)))
    if not found.groups:
        console.note("no cell has failed; `dinobench suite run` does what is missing")
        raise typer.Exit()
    _submit(found, dry_run) if launcher == "slurm" else _run(found, device, processes)


def _check(launcher: str, dry_run: bool, device: str, processes: int | None) -> None:
    """Raises UserError for options that do not go together."""
    if launcher not in LAUNCHERS:
        raise unknown_name("launcher", launcher, LAUNCHERS)
    if dry_run and launcher != "slurm":
        raise UserError("--dry-run: with --launcher slurm; `dinobench suite plan` shows what is to do")
    if launcher == "slurm" and (processes is not None or device != "auto"):
        given = "--device" if processes is None else "--processes"
        raise UserError(f"{given}: leave it out with --launcher slurm: [resources] and [slurm] say what a task gets")


def _submit(found: Plan, dry_run: bool) -> None:
    """Exits with 2 where inputs are missing; what is there is submitted all the same."""
    from dinobench.cli.display import slurm as display
    from dinobench.suite import slurm

    display.submitted(found, slurm.submit(found, dry_run=dry_run), dry_run)
    for line in found.missing():
        console.error(line)
    if found.missing():
        raise typer.Exit(2)


def _run(found: Plan, device: str, processes: int | None) -> None:
    from dinobench.cli.display import dashboard
    from dinobench.cli.display.runs import records
    from dinobench.results.records import read_file
    from dinobench.suite.work import status as statuses
    from dinobench.suite.work.local import run_locally

    now = statuses.of_plan(found)
    now.processes = processes or 1
    if not found.groups:
        console.note(dashboard.summary(now))
        return _end(now)
    for cell in (cell for group in found.groups for cell in group.cells):
        now.by_key[cell.key].now = statuses.Now.QUEUED  # what was refused before, too

    def heard(event: Mapping[str, Any]) -> None:
        now.heard(event)
        if event["event"] == "processes":
            now.processes = event["number"]
        elif event["event"] in ("done", "failed", "not applicable"):
            standing = now.by_key[event["cell"]]
            records([read_file(found.suite.out / "runs" / f"{run}.json") for run in event.get("runs", ())], None)
            if event["event"] == "failed":
                console.warn(dashboard.ended(now, standing))
            elif not console.stderr.is_terminal or event["event"] == "not applicable":
                console.note(dashboard.ended(now, standing))

    with console.standing(lambda width, height: dashboard.lines(now, width, height - 1), dashboard.STYLES) as draw:
        run_locally(found, device=device, processes=processes, told=heard, tick=draw)
    console.note(f"{dashboard.summary(now)}; records and leaderboard.csv are in {found.suite.out}/")
    return _end(now)


def _end(now: Status) -> None:
    """The exit code: that of failures, or where inputs alone are at fault theirs."""
    from dinobench.suite.work.status import Now

    count = now.count()
    if count[Now.FAILED]:
        refused = all(s.kind == "input" for s in now.cells if s.now is Now.FAILED)
        raise typer.Exit(2 if refused else 1)
    if count[Now.MISSING]:
        for line in dict.fromkeys(s.reason for s in now.cells if s.now is Now.MISSING):
            console.error(line)
        raise typer.Exit(2)


def status(
    suite: Reference,
    ckpt: Models = None,
    limit: Limit = None,
    out: SuiteOut = None,
    scale: Scale = None,
    trust_repo: TrustRepo = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds until all is done.")] = False,
    json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a table for a pull request's comment on stdout.")
    ] = False,
) -> None:
    """How a suite stands, whoever runs it and wherever: from its records and the files beside them."""
    from dinobench.cli.display import dashboard
    from dinobench.suite.work import status as statuses

    if json and markdown:
        raise UserError("--json and --markdown: one of them")
    if watch and (json or markdown):
        raise UserError(f"--watch shows a suite to people: leave it out, or --{'json' if json else 'markdown'}")
    read = opened(suite, ckpt, out, limit, scale, trust_repo)
    now = statuses.status(read)
    if watch:
        now = _watched(read, now)
    if json:
        console.text(statuses.to_json(now))
    elif markdown:
        console.text(dashboard.to_markdown(now))
    else:
        dashboard.status(now)


def _watched(read: Suite, now: Status) -> Status:
    """How it stands once nothing is left to do, or as long as nobody ends it."""
    from dinobench.cli.display import dashboard
    from dinobench.suite.work import status as statuses

    with console.standing(lambda width, height: dashboard.lines(now, width, height - 1), dashboard.STYLES) as draw:
        while any(s.now not in statuses.SETTLED for s in now.cells):
            draw()
            if not console.stderr.is_terminal:
                console.note(dashboard.summary(now))
            time.sleep(AGAIN)
            now = statuses.status(read)
    return now
