"""`dinobench pretrain`: makes the checkpoints that the protocols compare. Parses, calls, prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dinobench import console, signals
from dinobench.cli.options import Device, Devices, RamCache, Settings, Track
from dinobench.errors import UserError

#: Options that say how a run is computed and not what is trained, and so may come with --resume.
WITH_RESUME = frozenset({"resume", "device", "devices", "precision", "workers", "ram_cache", "skip_broken", "track"})


def pretrain(
    context: typer.Context,
    method: Annotated[
        str | None, typer.Option(help="Method: dino, byol, simclr, ...; see `dinobench list methods`.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Images, without labels or with: a folder of any depth, a CSV of paths, or an embedded set."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the checkpoints and curves of this run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder; needs nothing else.")] = None,
    arch: Annotated[
        str, typer.Option(help="Backbone: vit_tiny, vit_small, ..., resnet50, or a timm model.")
    ] = "vit_small",
    patch_size: Annotated[int | None, typer.Option(min=1, help="Patch size of a ViT in pixels; 16 by default.")] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Side of a global view in pixels.")] = 224,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks of a ViT; by default its usual number.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of a step, over all processes and parts.")] = None,
    set_: Settings = None,
    eval_: Annotated[list[str] | None, typer.Option("--eval", help="Score with this protocol while training.")] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Data set that --eval scores on, where it is not --data.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Epochs from one scoring to the next.")] = 10,
    eval_set: Annotated[list[str] | None, typer.Option(help="name=value, a setting of the protocols.")] = None,
    results: Annotated[Path, typer.Option(help="Results folder, for records and the history.")] = Path("results"),
    save_every: Annotated[int, typer.Option(min=0, help="Keep a checkpoint of every so many epochs; 0: none.")] = 0,
    init: Annotated[Path | None, typer.Option(help="Go on from this full checkpoint, DINO's release's too.")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts that a step is computed in, to save memory.")] = 1,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the backbones.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and views.")] = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Annotated[
        str | None, typer.Option(help="32, bf16, or auto: the faster here. Else: bf16 on a GPU that has it, 32.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that make views, where the CPU does.")] = None,
    ram_cache: RamCache = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.")] = False,
    track: Track = None,
) -> None:
    """Pretrain a backbone; teacher and student are kept in checkpoints that `dinobench run` scores."""
    if resume is None:
        _check(method, data, eval_ or ())
    from dinobench import runner, runtime, tracking
    from dinobench.config import parse_settings
    from dinobench.pretrain import evaluation, images
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.loop import Loop
    from dinobench.types import ComputeOptions

    if resume is not None:
        if others := [name for name in _typed(context) if name not in WITH_RESUME]:
            listed = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in others)
            raise UserError(f"--resume {resume}: the run keeps its own settings; leave {listed} out, or start anew")
        folder, run = resume, runs.read(resume)
    else:
        if not (method and data and out):
            raise UserError("--method, --data and --out are needed for a new run, or --resume FOLDER to go on with one")
        given = {k: v for k, v in (("epochs", epochs), ("batch", batch), ("seed", seed)) if v is not None}
        settings: dict[str, object] = {**parse_settings(set_ or [])}
        if twice := [f"--{k} {v} and --set {k}={settings[k]}" for k, v in given.items() if k in settings]:
            raise UserError(f"{twice[0]}: give one of them")
        settings |= given
        config = runs.configure(runs.load_method(method), settings)
        folder = out
        run = runs.Run(
            method, arch, image_size, patch_size, depth, data, dataclasses.asdict(config), "", accumulate, compile_,
            tuple(eval_ or ()), every, parse_settings(eval_set or []), str(results), save_every,
            str(init) if init else None, eval_data=eval_data, skip_broken=skip_broken,
        )  # fmt: skip
        if eval_data and not eval_:
            raise UserError(f"--eval-data {eval_data}: nothing is scored on it without --eval PROTOCOL")
        evaluation.check(run)
    if "16" in (precision, run.precision):
        raise UserError("--precision 16: pretraining computes in bf16 or 32")
    tracking.check(track or ())
    started = runtime.start(device, devices, precision or run.precision or None)
    console.silent = started.rank > 0
    started.run_on_first(lambda: evaluation.check_data(run))
    if resume is None:
        run, dataset = images.begin(dataclasses.replace(run, precision=started.precision), folder, started, workers)
    else:
        run, dataset = images.go_on(run, folder, started, workers, skip_broken)
    compute = ComputeOptions(device=device, devices=devices, cache=False)
    trackers = started.run_on_first(lambda: tracking.open_trackers(track or ())) or tracking.Trackers()
    loop = Loop(
        run, folder, started, dataset, workers=workers, ram_bytes=None if ram_cache is None else int(ram_cache * 1e9),
        evaluate=evaluation.evaluator(run, folder.resolve().name, runner.run, started, compute) if run.evals else None,
        watch=partial(trackers.epoch, folder.resolve().name),
    )  # fmt: skip
    try:
        with closing(trackers):
            loop.train()
    except KeyboardInterrupt:
        raise SystemExit(signals.exit_code()) from None  # the loop's note tells how to go on
    console.note(f"written: {loop.latest}; score it with `dinobench run --ckpt {loop.latest} --protocol knn ...`")


def _check(method: str | None, data: str | None, evals: Sequence[str]) -> None:
    """Raises UserError for names and paths that are not there, before seconds go into importing what trains."""
    from dinobench.data import UNLABELLED, check_place
    from dinobench.registry import METHODS, check_name

    if method:
        check_name("method", method, METHODS)
    for protocol in evals:
        check_name("protocol", protocol)
    if data:
        check_place(data, UNLABELLED)


def _typed(context: typer.Context) -> list[str]:
    """The options that were given, by the names of their parameters."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
