"""From runs to papers and CI: `dinobench compare`, `gate`, `report` and `explain`. Parses, calls, prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dinobench import console
from dinobench.cli.cka import show as show_cka
from dinobench.cli.options import Device, Json, Results, ResultsOption, finite
from dinobench.cli.output import deliver, format_of
from dinobench.errors import UserError
from dinobench.types import RunRecord

#: The format that is no table: metadata of a model card.
CARD = "model-card"


def compare(
    results: Results = Path("results"),
    pair: Annotated[
        tuple[str, str] | None, typer.Option(help="Two runs or two models, item by item: differences and tests.")
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="table, csv, markdown, latex, model-card, json (of --pair); else what -o ends in."
        ),
    ] = None,
    rows: Annotated[
        str, typer.Option(help="What the rows are: model, method or arch; or protocol, dataset, profile or metric.")
    ] = "model",
    columns: Annotated[
        str | None, typer.Option(help="What the columns are, the other of the two; by default protocol, or model.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metrics, by name or pattern (J*), instead of the primary ones.")
    ] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="Only these protocols; may be repeated.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Only these data sets; may be repeated.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these models; may be repeated.")] = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="Show 95 % intervals beside the scores.")] = False,
    pm: Annotated[bool, typer.Option("--pm", help="Show ± half the 95 % interval beside the scores.")] = False,
    reference: Annotated[
        str | None, typer.Option(help="published shows papers' figures beside ours, never ranked.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
    cka: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Two checkpoints, or models of these results: how alike their blocks see the images of --data; "
            "-o also takes .png, .svg, .pdf."
        ),
    ] = None,
    images: Annotated[int | None, typer.Option(min=4, help="--cka: test images to look at; by default 1000.")] = None,
    of: Annotated[str | None, typer.Option(help="--cka: cls or patches (their mean); by default cls.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="--cka: side of the images in pixels; by default 224.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="--cka: auto, cpu, cuda or mps.")] = None,
) -> None:
    """Models by protocols, as a table on screen or for papers; two runs item by item; or two models block by block."""
    from dinobench.cli.display import compare as display
    from dinobench.compare import pair_files, published, sanity, writers
    from dinobench.compare.model_card import model_card
    from dinobench.compare.table import compare
    from dinobench.compare.ties import TellByItems
    from dinobench.files import check_output

    of_cka = {"--images": images, "--of": of, "--size": size, "--device": device}
    of_tables = {
        "--rows": rows != "model", "--columns": columns, "--metric": metric, "--intervals": intervals, "--pm": pm,
        "--reference": reference,
    }  # fmt: skip
    if cka is not None:
        of_others = {**of_tables, "--pair": pair, "--protocol": protocol, "--model": model}
        if unused := [name for name, given in of_others.items() if given]:
            raise UserError(f"{', '.join(unused)}: not of --cka; leave out, or leave out --cka")
        return show_cka(results, cka, data or [], format_, output, images, of, size, device)
    if unused := [name for name, given in of_cka.items() if given is not None]:
        raise UserError(f"{', '.join(unused)}: of --cka A B only")
    form = format_of(format_, output, [*(pair_files.FORMATS if pair else (*writers.FORMATS, CARD))])
    if output is not None:
        check_output(output)
    if reference not in (None, "published"):
        raise UserError(f"--reference {reference}: the only one is published")
    if intervals and pm:
        raise UserError("--intervals and --pm: choose one")
    chosen = _chosen(_records(results), protocol or [], data or [], model or [])
    if pair is not None:
        if unused := [option for option, given in of_tables.items() if given]:
            raise UserError(f"{', '.join(unused)}: of tables of many models; leave out, or leave out --pair")
        return _pair(results, pair, chosen, form, output)
    if form == CARD:
        if unused := [option for option, given in of_tables.items() if given and option != "--metric"]:
            raise UserError(f"{', '.join(unused)}: not of a model card, which has all there is to a score; leave out")
        return deliver(model_card(chosen, metric or (), output), output)
    wanted = published.published_scores({r.protocol for r in chosen}, metric or ()) if reference else ()
    with TellByItems(results) as tell:
        table = compare(
            chosen, rows=rows, columns=columns, metrics=metric or (), flags=sanity.flags(results, chosen),
            figures=wanted, tell=tell,
        )  # fmt: skip
    spread = "intervals" if intervals else "pm" if pm else ""
    if form == "table":
        return display.table(table, spread)
    deliver(writers.FORMATS[form](table, spread), output)


def _records(results: Path) -> list[RunRecord]:
    """The records of a results folder; broken ones are named and left out."""
    from dinobench.results.comparability import read_records

    records, broken = read_records(results)
    for file, reason in broken:
        console.warn(f"{file}: left out: {reason}")
    return records


def _chosen(
    records: Sequence[RunRecord], protocols: Sequence[str], data: Sequence[str], models: Sequence[str]
) -> list[RunRecord]:
    from dinobench.errors import unknown_name

    for kind, asked, there in (
        ("protocol of these records", protocols, {r.protocol for r in records}),
        ("data set of these records", data, {r.dataset for r in records}),
        ("model of these records", models, {r.checkpoint.name for r in records}),
    ):
        for name in asked:
            if name not in there:
                raise unknown_name(kind, name, sorted(there))
    kept = [
        r for r in records
        if (not protocols or r.protocol in protocols) and (not data or r.dataset in data)
        and (not models or r.checkpoint.name in models)
    ]  # fmt: skip
    if not kept:
        asked = " on ".join(", ".join(names) for names in (protocols, models, data) if names)
        raise UserError(f"no record of {asked}")
    return kept


def _pair(results: Path, models: tuple[str, str], chosen: Sequence[RunRecord], form: str, output: Path | None) -> None:
    from dinobench.cli.display import compare as display
    from dinobench.compare import pair_files
    from dinobench.compare.pair import pair

    pairing = pair(results, *models, among=chosen)
    if form == "table":
        return display.pair(pairing)
    deliver(pair_files.FORMATS[form](pairing), output)


def explain(
    run_a: Annotated[str, typer.Argument(help="A run id, the beginning of one, or a record's .json file.")],
    run_b: Annotated[str, typer.Argument(help="Another run, named likewise.")],
    results: ResultsOption = Path("results"),
    flip: Annotated[bool, typer.Option("--flip", help="Run A again with one factor at a time as B has it.")] = False,
    json: Json = False,
    data: Annotated[str | None, typer.Option(help="--flip: where A's data set is.")] = None,
    ckpt: Annotated[str | None, typer.Option(help="--flip: where A's checkpoint is.")] = None,
    ckpt_b: Annotated[str | None, typer.Option(help="--flip: where B's checkpoint is.")] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="--flip: keep the runs in this results folder.")] = None,
    minutes: Annotated[
        float, typer.Option(min=0, callback=finite, help="--flip: how long the runs may take together.")
    ] = 10.0,
) -> None:
    """Why two runs cannot be compared, or why they differ if they can."""
    from dinobench.cli.display import compare as display
    from dinobench.compare import ablation
    from dinobench.compare.explain import explain, find, to_json

    (a, items_a), (b, items_b) = (find(results, run) for run in (run_a, run_b))
    explanation = explain(a, b, (items_a, items_b))
    flipped = None
    if flip:
        flipped = ablation.ablate(
            explanation, data=data, ckpt=ckpt, ckpt_b=ckpt_b, device=device, out=out, minutes=minutes,
        )  # fmt: skip
    if json:
        return console.text(to_json(explanation, flipped))
    display.explanation(explanation)
    if flipped is not None:
        display.flips(flipped)


def report(
    results: Results = Path("results"),
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="The page's heading.")] = "dinobench report",
    pictures_mb: Annotated[float, typer.Option(min=0, callback=finite, help="Pictures to embed at most, in all.")] = 20,
) -> None:
    """One HTML page with everything in it: leaderboard, intervals, curves, pictures and every run's provenance."""
    from dinobench.files import check_output
    from dinobench.report import page

    check_output(output)
    done = page.write(results, output, title=title, picture_bytes=round(pictures_mb * 1e6))
    for line in done.left_out:
        console.warn(f"left out: {line}")
    console.note(f"written: {output} ({done.runs:,} runs, {done.bytes / 1e6:,.1f} MB)")


def gate(
    results: Annotated[Path, typer.Argument(help="Results folder with the new runs.")] = Path("results"),
    baseline: Annotated[Path, typer.Option(help="Results folder to hold them against.")] = Path("baseline"),
    margin: Annotated[float, typer.Option(help="The drop that is allowed, in the metric's unit (points).")] = 0.5,
    alpha: Annotated[float, typer.Option(help="How often a verdict may be wrong, over all rows.")] = 0.05,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Judge only rows whose protocol, profile, model, data set or run id matches; may be repeated.",
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Pass though rows of the baseline have no counterpart.")
    ] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdicts as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdicts as Markdown.")] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the verdicts as JUnit XML, a test case a row.")
    ] = None,
) -> None:
    """Fail when a backbone got worse by more than a margin. Exits: 0 pass, 1 fail, 3 cannot tell, 4 rows missing."""
    from dinobench.cli.display.gate import show
    from dinobench.compare import gate_files
    from dinobench.compare.gate import gate
    from dinobench.files import check_output

    wanted = {form: path for form, path in (("json", json), ("markdown", markdown), ("junit", junit)) if path}
    for form, path in wanted.items():
        if twice := [f"--{other}" for other, same in wanted.items() if other != form and same == path]:
            raise UserError(f"--{form} and {twice[0]} are both {path}; give each a file of its own")
        check_output(path)
    report = gate(results, baseline, margin, alpha, allow_missing, only or ())
    for form, path in wanted.items():
        deliver(gate_files.FORMATS[form](report), path)
    show(report, gate_files.publish(report))
    raise typer.Exit(report.exit_code)
