"""`dinobench run`: scores checkpoints with protocols. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dinobench import console
from dinobench.cli.display import runs
from dinobench.cli.options import (
    Device,
    Devices,
    Json,
    Out,
    RamCache,
    Track,
    with_loading,
)
from dinobench.errors import UserError
from dinobench.types import LoadOptions, RunRecord

#: The embedded set that is scored where no data are named.
DIGITS = "digits"


def protocols() -> list[str]:
    """Names for the shell to complete."""
    from dinobench.registry import available

    return [*available()]


@with_loading()
def run(
    ckpt: Annotated[
        list[str],
        typer.Option(
            help="A file, hf:<owner>/<model>, timm:<model>, random:<model> or pixels, optionally as name=...; may be "
            "repeated. All kinds: `dinobench list models`."
        ),
    ],
    protocol: Annotated[
        list[str],
        typer.Option(help="Protocol to score with; may be repeated. See `dinobench list`.", autocompletion=protocols),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A data set: a path, name=path, or an embedded one; digits where images have labels. May be repeated: "
            "each is scored by the protocols of its kind."
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Score other images than --data's: imagenet-v2, imagenet-a, imagenet-r, imagenet-sketch, "
            "imagenet-real, objectnet or imagenet-c; may be repeated.",
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PROTOCOL=]NAME",
            help="Named set of settings; the first listed is the default. May be repeated, as linear=cached.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[PROTOCOL.]NAME=VALUE",
            help="Change a setting in every protocol that has it, or, as knn.k=10,20, in that one; may be repeated.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Use N items of every split, the same ones everywhere, all classes among them; the profile's name "
            "says so, and such scores are never ranked with those of all items.",
        ),
    ] = None,
    out: Out = Path("results"),
    json: Json = False,
    track: Track = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what has a finished record.")] = False,
    loading: LoadOptions = LoadOptions(),
    device: Device = "auto",
    devices: Devices = 1,
    precision: Annotated[
        str, typer.Option(help="Precision of the arithmetic: 32 (as published), bf16, 16, or auto.")
    ] = "32",
    seed: Annotated[int, typer.Option(help="Seed of random weights, draws and intervals; goes into the record.")] = 0,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep features.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in one forward pass.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode images; from 17 on, processes for a GPU.")
    ] = None,
    ram_cache: RamCache = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the files that a run makes: masks, models; folders by protocol, data set and model where there "
            "are several.",
        ),
    ] = None,
) -> None:
    """Score checkpoints with protocols and write records, per-item scores and the leaderboard."""
    from dinobench import runner
    from dinobench.config import parse_settings
    from dinobench.evaluations.asked import parse_profiles
    from dinobench.types import ComputeOptions

    shown: set[str] = set()

    def show(records: list[RunRecord]) -> None:
        """A table as soon as it is done, which may be hours before the next one is."""
        if not json and not console.silent:
            runs.records(records, None)
            shown.update(r.run_id for r in records)

    records = runner.run(
        protocol, ckpt, _default_data(protocol) if data is None else data, test=test or (),
        profile=parse_profiles(profile or [], protocol), settings=parse_settings(set_ or []), limit=limit, seed=seed,
        out=out, save=save,
        force=force, skip_broken=skip_broken, finished=show,
        track=track or (),
        loading=loading,
        compute=ComputeOptions(
            device=device, devices=devices, precision=precision, batch_size=batch_size, workers=workers,
            ram_gb=ram_cache, cache=not no_cache,
        ),
    )  # fmt: skip
    if console.silent:
        return
    if json:
        console.text(runs.records_json(records))
    elif records:
        runs.records([r for r in records if r.run_id not in shown], out)


def _default_data(names: list[str]) -> str:
    """The embedded digits where all protocols score images with labels. Raises UserError where one scores others."""
    from dinobench.data.embedded import EMBEDDED
    from dinobench.registry import load

    kinds = {name: load(name).data for name in names}
    for name, kind in kinds.items():
        embedded = EMBEDDED.get(kind, {})
        if DIGITS not in embedded:
            there = f", or an embedded set: {', '.join(embedded)}" if embedded else ""
            raise UserError(
                f"--data is missing: {name} scores {kind}; give a path in a layout of `dinobench list layouts`{there}"
            )
    return DIGITS
