"""The whole product in one command: a small DINO is trained, then scored by every built-in protocol beside its own
random start and raw pixels. All of it on embedded data, with nothing downloaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinobench import console
from dinobench.errors import UserError
from dinobench.runner import run
from dinobench.types import ComputeOptions, RunRecord

#: Names of the trained network, of the same one before its first step, which has learnt nothing, and of no network.
TRAINED, START, PIXELS = "dino_demo", "random_vit", "pixels"
#: What most protocols score, and those that need a network.
CHECKPOINTS = (TRAINED, START, PIXELS)
NETWORKS = (TRAINED, START)

#: Side in pixels that digits are brought to. They have 8: at twice that a ViT sees all there is, two hundred times
#: sooner than at 224 x 224.
SIDE = 16


@dataclass(frozen=True)
class DemoRecipe:
    """What the demo trains: a ViT, and how. `settings` are DINO's, with what digits and two CPU cores ask for.

    They were chosen by k-NN within the train images, a quarter of which were the queries.
    """

    arch: str = "vit_tiny"
    patch_size: int = 8
    depth: int = 2
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {
            # Few images: many small steps, a teacher that follows within an epoch, a head in proportion to ten classes.
            "epochs": 44,
            "batch": 32,
            "lr": 0.004,
            "warmup_epochs": 1,
            "momentum": 0.97,
            "weight_decay_end": 0.04,
            "teacher_temperature": 0.05,
            "warmup_teacher_temperature": 0.05,
            "drop_path": 0.0,
            "out_dim": 256,
            "hidden_dim": 256,
            "bottleneck_dim": 64,
            "head_batch_norm": True,  # without it so small a training ends in the uniform output
            "freeze_last_layer": 0,
            # A digit is no photograph: mirrored it is another one, cut in half often too, and it has no colours.
            "flip_p": 0.0,
            "grayscale_p": 0.0,
            "solarize_p": 0.0,
            "blur_p": (0.0, 0.0, 0.0),
            "jitter": (0.4, 0.4, 0.0, 0.0),
            "jitter_p": 0.5,
            "global_scale": (0.6, 1.0),
            "local_crops": 0,
        }
    )


#: The recipe of `dinobench demo`.
RECIPE = DemoRecipe()


@dataclass(frozen=True)
class DemoStep:
    """One protocol of the demo, on `models`. `settings` make it small enough for a laptop; its records show them."""

    protocol: str
    data: str
    settings: Mapping[str, Any]
    profile: str | None = None
    models: tuple[str, ...] = field(default=CHECKPOINTS)


#: Settings that bring images to the side that the demo trains at.
SMALL = {"resize": SIDE, "crop": SIDE}
STEPS = (
    DemoStep("knn", "digits", SMALL),
    DemoStep("linear", "digits", SMALL | {"blocks": (RECIPE.depth,)}, "cached"),
    DemoStep("logreg", "digits", SMALL),
    DemoStep("finetune", "digits", SMALL | {"epochs": 2}, "small", NETWORKS),
    DemoStep("davis", "shapes", {"short_side": 192}, models=NETWORKS),
    DemoStep("attention", "shapes", {"image_size": 192}, models=NETWORKS),
    DemoStep("copydetect", "tiles", {"image_size": 160}),
    DemoStep("retrieval", "tiles", {"image_size": 160}),
    DemoStep("correspondence", "shapes", {"size": 96}),
    DemoStep("navi", "shapes", {"size": 96, "points": 200}),
    DemoStep("segmentation", "shapes", {"side": 96, "crop": 96, "stride": 64, "iterations": 200}, "cached"),
    DemoStep("incontext", "shapes", {"size": 96, "augment": "none"}),
    DemoStep("depth", "shapes", {"scale": 0.5, "iterations": 200}, "cached"),
    DemoStep("discovery", "shapes", {}, "tokencut", NETWORKS),
    DemoStep("saliency", "shapes", {}, models=NETWORKS),
    DemoStep("representation", "digits", SMALL),
)


def demo(out: Path, device: str = "auto", recipe: DemoRecipe = RECIPE) -> list[RunRecord]:
    """Train, and run every step into `out`. What is finished is not done again: an interrupted demo goes on."""
    total = len(STEPS) + 1
    console.note(f"[1/{total}] pretraining a small DINO on digits")
    specs = {PIXELS: PIXELS, **{name: f"{name}={path}" for name, path in pretrain(out, device, recipe).items()}}
    records: list[RunRecord] = []
    for index, step in enumerate(STEPS, 2):
        console.note(f"[{index}/{total}] {step.protocol} on {step.data}")
        records += run(
            step.protocol, [specs[name] for name in step.models], step.data,
            profile=step.profile, settings=step.settings, out=out, compute=ComputeOptions(device=device),
        )  # fmt: skip
    return records


def pretrain(out: Path, device: str = "auto", recipe: DemoRecipe = RECIPE) -> dict[str, Path]:
    """The files of the trained network and of its start by name; trained in `out`/pretrain, or on from what is there.

    Raises UserError where `out` holds a training by another recipe.
    """
    from dinobench import runtime
    from dinobench.data import load_dataset
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.checkpoints import LATEST
    from dinobench.pretrain.loop import Loop

    folder = out / "pretrain" / TRAINED
    started = runtime.start(device)  # in float32, as the evaluations: the network is too small to gain by less
    data = load_dataset("digits")
    config = runs.configure(runs.load_method("dino"), dict(recipe.settings))
    chosen = runs.Run(
        "dino", recipe.arch, SIDE, recipe.patch_size, recipe.depth, "digits", dataclasses.asdict(config),
        started.precision, results=str(out), fingerprint=data.train.fingerprint,
    )  # fmt: skip
    if (folder / LATEST).exists():
        _check_same(folder, runs.read(folder), chosen)
    else:
        runs.begin(folder, chosen)
    loop = Loop(chosen, folder, started, data)
    start = folder / "start.pth"
    if loop.at.step == 0:
        _write_start(start, loop.method.student.backbone)
    loop.train()
    return {TRAINED: loop.latest, START: start}


def _check_same(folder: Path, earlier: Any, chosen: Any) -> None:
    """Where the results lie may change from one call to the next, but nothing else."""
    before, now = (_plain(dataclasses.replace(r, results="")) for r in (earlier, chosen))
    if before != now:
        raise UserError(f"{folder}: holds a training by another recipe; delete it, or choose another --out")


def _plain(run: Any) -> Any:
    """A run as JSON gives it back, which knows no tuples."""
    return json.loads(json.dumps(dataclasses.asdict(run)))


def _write_start(path: Path, backbone: Any) -> None:
    """What the training starts from, as a checkpoint that is scored like any other."""
    from dinobench.models.checkpoint import write_checkpoint

    write_checkpoint({"state_dict": backbone.state_dict(), "method": "random"}, path)
