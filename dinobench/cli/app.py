"""The `dinobench` command: parses, calls, prints.

Exit codes: 0 done, 1 a gate said no, 2 the input is at fault, 3 and 4 a gate cannot tell or lacks rows; what a signal
ends has 128 and the signal's number.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer

from dinobench import __version__, console, signals
from dinobench.cli import arguments, bench, check, compare, score, suite, suite_run, visualize
from dinobench.cli import pretrain as cli_pretrain
from dinobench.cli import run as cli_run
from dinobench.cli.display import runs
from dinobench.cli.options import Device, Json, Out, Results, finite, with_loading
from dinobench.errors import PluginFault, UserError
from dinobench.types import LoadOptions

#: Exit code of a fault in dinobench itself or a plug-in (EX_SOFTWARE of sysexits.h): CI can tell it from bad input.
INTERNAL = 70
#: What the option parser makes of an interruption of whatever kind.
INTERRUPTED = 130

app = typer.Typer(
    name="dinobench",
    help="Score self-supervised vision backbones: a checkpoint goes in, comparable numbers come out.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Look at the feature cache, or free its space.")
app.add_typer(cache_app, name="cache")
data_app = typer.Typer(help="Make data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(score.score_app, name="score")
app.add_typer(visualize.visualize_app, name="visualize")
app.add_typer(suite.suite_app, name="suite")


#: What `dinobench list` can show.
VIEWS = {
    "protocols": runs.protocols,
    "profiles": runs.profiles,
    "methods": runs.methods,
    "layouts": runs.layouts,
}
#: The listing that takes a pattern, and the one for programs.
MODELS, SCHEMA = "models", "schema"


def _listings() -> list[str]:
    from dinobench.registry import METHODS, available

    return list(dict.fromkeys([*VIEWS, MODELS, SCHEMA, *cli_run.protocols(), *available(METHODS)]))


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, print the traceback too.")] = False,
) -> None:
    if version:
        console.text(__version__)
        raise typer.Exit()
    _help_if_alone(context)


@cache_app.callback(invoke_without_command=True)
def _help_if_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        console.text(context.get_help())
        raise typer.Exit()


app.command()(cli_run.run)
app.command()(cli_pretrain.pretrain)
for suite_command in (suite_run.run, suite_run.status, suite_run.retry):
    suite.suite_app.command()(suite_command)
for command in (compare.compare, compare.gate, compare.report, compare.explain, check.check, bench.bench):
    app.command()(command)


@app.command()
@with_loading("allow_partial")  # it tells what is missing either way
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint file, or any other reference that --ckpt takes.")],
    loading: LoadOptions = LoadOptions(),
    json: Json = False,
) -> None:
    """What a checkpoint holds: format, architecture, what matched, what did not, digest."""
    from dinobench.models.sources.references import check, split_name

    name, reference = split_name(checkpoint)
    check(reference)  # before seconds go into importing what reads it
    from dinobench.models.loading import inspect_checkpoint

    how = {option: value for option, value in vars(loading).items() if option != "allow_partial"}
    inspection = inspect_checkpoint(reference, name=name, **how)
    console.text(runs.inspection_json(inspection)) if json else runs.inspection(inspection)


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help=f"What to list: {', '.join([*VIEWS, MODELS, SCHEMA])}; or one protocol or method by its name.",
            autocompletion=_listings,
        ),
    ] = "protocols",
    pattern: Annotated[
        str | None, typer.Argument(help="Of models: only those whose reference holds this, or matches it (*, ?).")
    ] = None,
) -> None:
    """What there is: protocols, their profiles, pretraining methods, with every setting, layouts of data sets, models
    that can be had by name, and the JSON Schema of a record."""
    from dinobench.cli.display import models
    from dinobench.errors import unknown_name

    if what == MODELS:
        return models.models(pattern)
    if pattern is not None:
        raise UserError(f"list {what} takes no pattern; `dinobench list models {pattern}` does")
    if what in VIEWS:
        return VIEWS[what]()
    if what == SCHEMA:
        return runs.schema()
    if what not in _listings():
        raise unknown_name("listing", what, _listings())
    runs.one(what)


@app.command()
def leaderboard(results: Results = Path("results")) -> None:
    """Rebuild results/leaderboard.csv from the records and show it."""
    from dinobench.cli.display import compare as display
    from dinobench.results.leaderboard import build
    from dinobench.results.listing import require_runs

    require_runs(results)
    path, rows, broken = build(results)
    for file, reason in broken:
        console.warn(f"{file}: left out: {reason}")
    display.leaderboard(rows)
    console.note(f"written: {path}")


@cache_app.command("ls")
def cache_ls() -> None:
    """List the cached features, the most recently used first."""
    runs.cache()


@cache_app.command("prune")
def cache_prune(
    days: Annotated[
        float | None,
        typer.Option(min=0, callback=finite, help="Delete only what was unused for so many days; else all."),
    ] = None,
) -> None:
    """Delete cached features; whatever is needed again is extracted again."""
    from dinobench.features.cache import prune
    from dinobench.files import cache_root

    entries, freed = prune(cache_root() / "features", None if days is None else time.time() - 86400 * days)
    console.note(f"{entries} entries deleted, {freed / 1e6:,.1f} MB freed")


@data_app.command("make-copies")
def make_copies(
    photos: Annotated[Path, typer.Argument(help="A folder of photos, looked through with its subfolders.")],
    out: Annotated[Path, typer.Argument(help="A new folder, for Copydays' layout.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the edits: the same one makes the same files.")] = 0,
) -> None:
    """Edited copies of photos in Copydays' layout, for copy detection on one's own images."""
    from dinobench.data import copies

    manifest = copies.make_copies(photos, out, seed, progress=console.progress)
    if manifest["left_out"]:
        console.note(f"{photos}: left out: {copies.left_out_words(manifest['left_out'])}")
    console.note(
        f"{len(manifest['copies'])} copies of {manifest['originals']} photos in {out}; see {out}/manifest.json"
    )


@app.command()
def demo(
    out: Out = Path("dinobench-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the trainings: weights, order and views.")] = 0,
    device: Device = "auto",
) -> None:
    """The whole product in one command, offline: a small DINO is trained and scored beside its start and raw pixels."""
    from dinobench.cli.display import findings
    from dinobench.demo import demo

    records = demo(out, device, seed=seed)
    runs.records(records, out)
    findings.show(out, records)


arguments.install(app)


def main() -> None:
    """Entry point of the console script and of `python -m dinobench`."""
    _speak_utf8()
    # Threads that wait for work by spinning take the cores from whatever else runs: on a busy two-core machine small
    # forward passes were seven times slower. Must be set before torch loads its OpenMP; who sets it keeps their choice.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    debug = "--debug" in sys.argv[1:]  # wherever it stands
    given = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        arguments.refuse_repeated(app, given)
        with signals.handled_by(signals.interrupt):
            code = app(args=given, prog_name="dinobench", standalone_mode=False)
    except (UserError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        if not console.silent:  # the processes of a run agree on such errors, and the first one speaks
            console.error(_reason(error))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except PluginFault as error:
        if debug:
            traceback.print_exc()
        console.error(f"{error}; --debug shows where")
        code = INTERNAL
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: typer has no public name for it
            console.text(error.ctx.get_help())  # type: ignore[attr-defined]
            code = 0
        elif hasattr(error, "format_message"):  # a usage error of the option parser
            context = getattr(error, "ctx", None)
            help_ = f"{context.command_path if context else 'dinobench'} --help"
            console.error(f"{error.format_message()} (see `{help_}`)")
            code = 2
        else:
            if debug:
                traceback.print_exc()
            console.error(f"{type(error).__name__}: {error} (a fault in dinobench: --debug shows where)")
            code = INTERNAL
    if code == INTERRUPTED:  # newer typers return it themselves
        console.note("interrupted; what was done so far is kept, and the same command goes on from there")
        code = signals.exit_code()
    sys.exit(code if isinstance(code, int) else 0)


def _reason(error: Exception) -> str:
    """One line on an error that is the user's to mend: bad input, or a machine that refuses."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror or error}" if error.filename else str(error.strerror or error)
    return str(error) if isinstance(error, UserError) else f"out of memory: {error or 'use smaller images or batches'}"


def _speak_utf8() -> None:
    """Start anew in Python's UTF-8 mode where the locale, such as C, cannot name all files.

    Names of files would come as half-characters, and be blamed for it.
    """
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
