"""`dinobench pretrain`: makes the checkpoints that the protocols compare. Parses, calls, prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinobench import console
from dinobench.errors import UserError
from dinobench.types import ImageClassification

if TYPE_CHECKING:
    from dinobench.pretrain.run import Run
    from dinobench.runtime import Runtime

#: An image is resized to so many times its crop before scoring, as 256 is to 224.
RESIZE = 256 / 224


def pretrain(
    method: Annotated[str | None, typer.Option(help="dino, byol, simclr, ...: see `dinobench list methods`.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set: a path, name=path, or an embedded one.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the checkpoints and curves of this run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder; needs nothing else.")] = None,
    arch: Annotated[str, typer.Option(help="vit_tiny, vit_small, ..., resnet50, or a timm model.")] = "vit_small",
    patch_size: Annotated[int | None, typer.Option(min=1, help="Of a ViT, in pixels; 16 unless said.")] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Side of a global view in pixels.")] = 224,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks of a ViT, where not the usual number.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of a step, over all processes and parts.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, a setting of the method.")] = None,
    eval_: Annotated[list[str] | None, typer.Option("--eval", help="Score with this protocol while training.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Epochs from one scoring to the next.")] = 10,
    eval_set: Annotated[list[str] | None, typer.Option(help="name=value, a setting of the protocols.")] = None,
    results: Annotated[Path, typer.Option(help="Results folder, for records and the history.")] = Path("results"),
    save_every: Annotated[int, typer.Option(min=0, help="Keep a checkpoint of every so many epochs; 0: none.")] = 0,
    init: Annotated[Path | None, typer.Option(help="Go on from this full checkpoint, DINO's release's too.")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts that a step is computed in, to save memory.")] = 1,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the backbones.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and views.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes to start on this machine, one per device.")] = 1,
    precision: Annotated[str | None, typer.Option(help="32, bf16, or auto: bf16 where it is fast.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that make views, where the CPU does.")] = None,
    ram_cache: Annotated[float | None, typer.Option(min=0, help="GB for decoded images.")] = None,
) -> None:
    """Pretrain a backbone; teacher and student are kept in checkpoints that `dinobench run` scores."""
    from dinobench import runtime
    from dinobench.config import parse_settings
    from dinobench.data import load_dataset as resolve_data
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.loop import Loop

    if resume is not None:
        if method or data or out or set_ or eval_ or init or epochs or batch or seed is not None:
            raise UserError(f"--resume {resume}: the run keeps its own settings; leave the others out, or start anew")
        folder, run = resume, runs.read(resume)
    else:
        if not (method and data and out):
            raise UserError("--method, --data and --out are needed for a new run, or --resume FOLDER to go on with one")
        given = {"epochs": epochs, "batch": batch, "seed": seed}
        settings = {k: v for k, v in given.items() if v is not None} | parse_settings(set_ or [])
        config = runs.configure(runs.load_method(method), settings)
        folder = out
        run = runs.Run(
            method, arch, image_size, patch_size, depth, data, dataclasses.asdict(config), "", accumulate, compile_,
            tuple(eval_ or ()), every, parse_settings(eval_set or []), str(results), save_every,
            str(init) if init else None,
        )  # fmt: skip
        _check_evaluations(run)
    if "16" in (precision, run.precision):
        raise UserError("--precision 16: pretraining computes in bf16 or 32")
    started = runtime.start(device, devices, precision or run.precision or "auto")
    console.silent = started.rank > 0
    first = started.run_on_first(lambda: resolve_data(run.data, progress=console.progress))
    found = started.run_on_all(lambda: first or resolve_data(run.data))
    if resume is None:
        run = dataclasses.replace(run, precision=started.precision, fingerprint=found.train.fingerprint)
        started.run_on_first(lambda: runs.begin(folder, run))
    elif run.fingerprint != found.train.fingerprint:
        raise UserError(f"{run.data}: not the images that {folder} was trained on; a resumed run needs the same")
    loop = Loop(
        run, folder, started, found, workers=workers, ram_bytes=None if ram_cache is None else int(ram_cache * 1e9),
        evaluate=_evaluator(run, folder, found, started, device, devices) if run.evals else None,
    )  # fmt: skip
    try:
        loop.train()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # it has said where to go on
    console.note(f"written: {loop.latest}; score it with `dinobench run --ckpt {loop.latest} --protocol knn ...`")


def _check_evaluations(run: Run) -> None:
    """Find out now, and not after the first epochs, that a protocol or a setting of it is unknown."""
    for name in run.evals:
        _settings(name, run)


def _settings(protocol: str, run: Run) -> dict[str, Any]:
    """What the user set; else the images come at the size that the run trains at."""
    from dinobench import registry
    from dinobench.config import resolve_config, settings_of

    found = registry.load(protocol)
    chosen: dict[str, Any] = dict(run.eval_settings)
    config = next(iter(found.profiles.values()))
    if {"resize", "crop"} <= settings_of(config).keys() and not {"resize", "crop"} & chosen.keys():
        chosen |= {"resize": round(RESIZE * run.image_size), "crop": run.image_size}
    resolve_config(found, None, chosen)
    return chosen


def _evaluator(run: Run, folder: Path, data: ImageClassification, started: Runtime, device: str, devices: int) -> Any:
    """(checkpoint, epoch) -> {"knn/teacher/top1@k20": value, ...}: records like any other, of teacher and student."""
    import torch

    from dinobench.pretrain import backbones
    from dinobench.runner import run as score

    told = backbones.choose(run.arch, run.image_size, run.patch_size, run.depth).told

    def evaluate(path: Path, epoch: int) -> dict[str, float]:
        from dinobench.pretrain.checkpoints import read

        state = read(path)
        networks = [n for n in ("teacher", "student") if isinstance(state.get(n), Mapping)]
        tf32 = torch.backends.cudnn.allow_tf32
        scores: dict[str, float] = {}
        for protocol in run.evals:
            for network in networks:
                done = score(
                    protocol, f"{folder.resolve().name}-e{epoch:03d}-{network}={path}", run.data,
                    settings=_settings(protocol, run), out=run.results, key=network, device=device, devices=devices,
                    arch=None if told else run.arch, cache=False, seed=int(run.config["seed"]),
                )  # fmt: skip
                scores |= _named(protocol, network, done)
        torch.backends.cudnn.allow_tf32 = tf32
        console.silent = started.rank > 0
        return scores

    return evaluate


def _named(protocol: str, network: str, records: Sequence[Any]) -> dict[str, float]:
    """The primary metric comes first."""
    return {
        f"{protocol}/{network}/{name}": r.metrics[name].value
        for r in records
        for name in sorted(r.metrics, key=lambda name: name != r.primary)
    }
