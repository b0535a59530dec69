"""The whole product in one command: a small DINO is trained, then scored by every built-in protocol beside its own
random start and raw pixels, and what is seen is said in four sentences. All of it on embedded data, with nothing
downloaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
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
#: The same network trained with labels, and by DINO with a part taken away.
SUPERVISED, NO_CENTRING, NO_SHARPENING = "supervised", "no_centring", "no_sharpening"

#: Side in pixels that drawings are brought to, and the data that are trained on.
SIDE, DATA = 32, "drawings"
#: Of the figure of the collapses, in the folder of the demo.
COLLAPSES = "collapses.png"
#: The share of mistakes that is called no difference.
ALPHA = 0.05


@dataclass(frozen=True)
class DemoRecipe:
    """What the demo trains: a ViT, by which method, and how.

    `settings` are the method's, with what small drawings and two CPU cores ask for. DINO's were chosen by k-NN within
    the train drawings, a quarter of which were the queries: docs/demo-search.md.
    """

    method: str = "dino"
    arch: str = "vit_w96"
    patch_size: int = 8
    depth: int = 2
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {
            # Few images: many small steps, a teacher that follows within an epoch, a head in proportion to ten classes.
            "epochs": 20,
            "batch": 32,
            "lr": 0.012,
            "warmup_epochs": 1,
            "momentum": 0.95,
            "weight_decay_end": 0.04,
            # A step grows what both views share by its share times student's over teacher's temperature: at .04 the
            # outputs stay uniform for longer than a demo lasts.
            "teacher_temperature": 0.025,
            "warmup_teacher_temperature": 0.025,
            # The running mean lets a few outputs win at so low a temperature.
            "centering": "sinkhorn",
            "drop_path": 0.0,
            "out_dim": 64,
            "hidden_dim": 256,
            "bottleneck_dim": 64,
            "head_batch_norm": True,
            "freeze_last_layer": 0,
            # Hues tell nothing of a kind, light and dark do.
            "grayscale_p": 0.9,
            "jitter": (0.2, 0.2, 0.2, 0.5),
            "jitter_p": 0.5,
            "solarize_p": 0.0,
            "blur_p": (0.0, 0.0, 0.0),
            "global_scale": (0.5, 1.0),
            "local_crops": 0,
        }
    )

    def less(self, epochs: int, **changed: Any) -> DemoRecipe:
        """The recipe with other settings, trained for so many epochs."""
        return dataclasses.replace(self, settings={**self.settings, **changed, "epochs": epochs})

    def seeded(self, seed: int) -> DemoRecipe:
        """The recipe from another start, with images in another order and other views of them."""
        return dataclasses.replace(self, settings={**self.settings, "seed": seed})


#: The recipe of `dinobench demo`.
RECIPE = DemoRecipe()
#: Trainings beside it, by name: with labels for as many epochs, and short ones without what keeps DINO from collapsing.
OTHERS = {
    SUPERVISED: dataclasses.replace(
        RECIPE,
        method="supervised",
        settings={k: RECIPE.settings[k] for k in ("epochs", "batch", "warmup_epochs", "weight_decay_end", "drop_path")}
        | {"lr": 0.008, "crop_min": 0.5},
    ),
    NO_CENTRING: RECIPE.less(3, centering="off"),
    NO_SHARPENING: RECIPE.less(3, sharpening=False),
}


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
    DemoStep("knn", DATA, SMALL),
    DemoStep("linear", DATA, SMALL | {"blocks": (RECIPE.depth,), "minimum_steps": 50}, "cached"),
    DemoStep("logreg", DATA, SMALL | {"c_min": 1e-2, "c_max": 1e3, "c_count": 6}),
    DemoStep("finetune", DATA, SMALL | {"epochs": 2}, "small", NETWORKS),
    # Heads' mean and LOST on tokens: what the trained network is best at on the drawings that it has learnt from.
    DemoStep("attention", DATA, {"image_size": SIDE, "heads": "mean"}, models=(*NETWORKS, SUPERVISED)),
    DemoStep("discovery", DATA, {"features": "tokens"}, "lost", NETWORKS),
    DemoStep("saliency", DATA, {}, models=NETWORKS),
    DemoStep("davis", DATA, {"short_side": 192, "multiple": 8}, models=NETWORKS),
    DemoStep("representation", DATA, SMALL | {"alpha_range": (5, 90), "starts": 2}),  # 96 eigenvalues
    DemoStep("copydetect", "tiles", {"image_size": 160}),
    DemoStep("retrieval", "tiles", {"image_size": 160}),
    DemoStep("correspondence", "shapes", {"size": 96}),
    DemoStep("navi", "shapes", {"size": 96, "points": 200}),
    DemoStep("segmentation", "shapes", {"side": 96, "crop": 96, "stride": 64, "iterations": 100}, "cached"),
    DemoStep("incontext", "shapes", {"size": 96, "augment": "none"}),
    DemoStep("depth", "shapes", {"scale": 0.5, "iterations": 80}, "cached"),
)


def demo(
    out: Path,
    device: str = "auto",
    recipe: DemoRecipe = RECIPE,
    others: Mapping[str, DemoRecipe] = OTHERS,
    seed: int = 0,
) -> list[RunRecord]:
    """Train, all from `seed`, and run every step into `out`.

    What is finished is not done again: an interrupted demo goes on.
    """
    total = len(STEPS) + 1 + len(others)
    console.note(f"[1/{total}] pretraining a small DINO on {DATA}")
    files = pretrain(out, device, recipe.seeded(seed))
    for index, (name, other) in enumerate(others.items(), 2):
        console.note(f"[{index}/{total}] {name.replace('_', ' ')}: the same network, for comparison")
        files[name] = train(out, name, other.seeded(seed), device)
    specs = {PIXELS: PIXELS, **{name: f"{name}={path}" for name, path in files.items()}}
    records: list[RunRecord] = []
    for index, step in enumerate(STEPS, 2 + len(others)):
        console.note(f"[{index}/{total}] {step.protocol} on {step.data}")
        records += run(
            step.protocol, [specs[name] for name in step.models if name in specs], step.data,
            profile=step.profile, settings=step.settings, out=out, compute=ComputeOptions(device=device),
        )  # fmt: skip
    return records


def pretrain(out: Path, device: str = "auto", recipe: DemoRecipe = RECIPE) -> dict[str, Path]:
    """The files of the trained network and of its start by name; trained in `out`/pretrain, or on from what is there.

    Raises UserError where `out` holds a training by another recipe.
    """
    start = out / "pretrain" / TRAINED / "start.pth"
    return {TRAINED: train(out, TRAINED, recipe, device, start), START: start}


def train(out: Path, name: str, recipe: DemoRecipe, device: str = "auto", start: Path | None = None) -> Path:
    """The file of a network trained in `out`/pretrain/`name`; what it starts from is written to `start`.

    Raises UserError where there is a training by another recipe.
    """
    from dinobench import runtime
    from dinobench.data import load_dataset
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.checkpoints import LATEST, save_untrained
    from dinobench.pretrain.loop import Loop

    folder = out / "pretrain" / name
    started = runtime.start(device)  # in float32, as the evaluations: the network is too small to gain by less
    data = load_dataset(DATA)
    config = runs.configure(runs.load_method(recipe.method), dict(recipe.settings))
    chosen = runs.Run(
        recipe.method, recipe.arch, SIDE, recipe.patch_size, recipe.depth, DATA, dataclasses.asdict(config),
        started.precision, results=str(out), fingerprint=data.train.fingerprint,
    )  # fmt: skip
    if (folder / LATEST).exists():
        if runs.differences(runs.read(folder), chosen, but=("results",)):
            raise UserError(f"{folder}: holds a training by another recipe; delete it, or choose another --out")
    else:
        runs.begin(folder, chosen)
    loop = Loop(chosen, folder, started, data)
    if start is not None and loop.at.step == 0:
        save_untrained(start, loop.method.student.backbone, SIDE)
    with runtime.one_thread():  # two that share the steps of so small a network take longer than one
        loop.train()
    return loop.latest


def findings(out: Path, records: Sequence[RunRecord]) -> list[str]:
    """What the demo of `out` shows, in four sentences whose numbers are those of its records and trainings.

    They say so where a difference is the other way round, or may be chance.
    """
    # pixels are called by their side too
    of = {(r.protocol, PIXELS if r.checkpoint.method == PIXELS else r.checkpoint.name): r for r in records}

    def against(protocol: str, other: str, name: str) -> str:
        return _difference(out, of[protocol, TRAINED], of[protocol, other], name)

    def score(protocol: str, name: str = TRAINED) -> float:
        record = of[protocol, name]
        return record.metrics[record.primary].value

    start, pixels = "its untrained start", "raw pixels"
    return [
        f"What the drawings show: without a label, {score('knn'):.1f} % by k-NN, {against('knn', START, start)} and "
        f"{against('knn', PIXELS, pixels)}; {score('linear'):.1f} % by a linear layer, "
        f"{against('linear', START, start)} and {against('linear', PIXELS, pixels)}.",
        f"Where they show it: the heads' mean attention covers the thing with a Jaccard of {score('attention'):.1f}, "
        f"{against('attention', START, start)} and {against('attention', SUPERVISED, 'the same network with labels')}.",
        f"Things found and followed: a box without labels is right in {score('discovery'):.1f} % of drawings, "
        f"{against('discovery', START, start)}; masks follow through videos with a J&F of {score('davis'):.1f}, "
        f"{against('davis', START, start)}.",
        f"What it cannot do without: {_collapse(out)}",
    ]


def _difference(out: Path, a: RunRecord, b: RunRecord, name: str) -> str:
    from dinobench.compare.pair import compare
    from dinobench.compare.pair_files import p_text

    found = compare(out, a, out, b).primary
    p = "no test" if found.p is None else f"paired p {p_text(found.p)}"
    if found.p is None or found.p >= ALPHA:
        return f"not told apart from {name} ({found.difference:+.1f} points, {p})"
    side = "above" if found.difference > 0 else "below"
    return f"{abs(found.difference):.1f} points {side} {name} ({p})"


def _collapse(out: Path) -> str:
    """How the trainings ended, and the figure of their epochs."""
    from dinobench.pretrain.history import named_history
    from dinobench.pretrain.plots import collapse_figure

    outputs = int(RECIPE.settings["out_dim"])
    names = (TRAINED, NO_CENTRING, NO_SHARPENING)
    histories = dict(named_history(str(out / "pretrain" / name)) for name in names)
    collapse_figure(histories, outputs).savefig(out / COLLAPSES)
    whole, centring, sharpening = (histories[name][-1] for name in names)
    used = [math.exp(row["teacher_mean_entropy"]) for row in (whole, centring)]
    folders = " ".join(f"{out}/pretrain/{name}" for name in names)
    return (
        f"without centring the teacher uses {used[1]:.1f} of its {outputs} outputs ({used[0]:.1f} with it), and "
        f"without sharpening its entropy is {sharpening['teacher_entropy']:.2f} of at most {math.log(outputs):.2f} "
        f"({whole['teacher_entropy']:.2f} with it) and KL {sharpening['kl']:.3f}; drawn in {out / COLLAPSES} by "
        f"`dinobench visualize collapse {folders} --outputs {outputs} -o {out / COLLAPSES}`."
    )
