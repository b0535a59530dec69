"""How this machine does against the limits of pretraining: the loop beside the bare networks, real data beside none.

Everything is DINO's loop as a user runs it: its loader, its networks, its optimizer and what it logs.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinobench import console, runtime
from dinobench.bench.measure import BenchRow, in_turn, photographs
from dinobench.hashing import digest
from dinobench.types import ImageClassification

#: The epoch that is measured: in the first one DINO's last layer, the largest of all, does not learn.
EPOCH = 1
#: Distinct photographs; the data set repeats them up to its number of images.
PHOTOS = 128


@dataclass(frozen=True)
class Shape:
    """What is trained: `steps` of `batch` images are one measurement."""

    arch: str
    patch_size: int
    image_size: int
    batch: int
    steps: int
    depth: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()


#: On a GPU the paper's shape, and the one for images of about 100 pixels.
GPU = (Shape("vit_small", 16, 224, 256, 16), Shape("vit_tiny", 8, 96, 256, 16))
#: On a CPU what a laptop trains, with a head in proportion.
CPU = (Shape("vit_tiny", 8, 64, 16, 6, 4, (("out_dim", 4096), ("hidden_dim", 512))),)


def pretrain(repeats: int = 3, device: str = "auto") -> list[BenchRow]:
    """For every shape: the loop's own cost, the speed on real data, and where the time goes."""
    started = runtime.start(device, precision="auto")
    rows: list[BenchRow] = []
    for shape in CPU if started.device.type == "cpu" else GPU:
        with tempfile.TemporaryDirectory() as folder:
            loop = training(shape, Path(folder), started)
            rows += overhead(loop, shape, repeats) + throughput(loop, shape, repeats) + shares(loop)
    return rows


def precision(repeats: int = 3, device: str = "auto") -> list[BenchRow]:
    """What `--precision auto` takes on a CPU: a step in it beside the faster one of both, and its measurement."""
    if runtime.start(device, precision=None).device.type != "cpu":
        console.note("precision: auto is measured for a CPU alone (bench precision --device cpu)")
        return []
    shape, name, measurable = CPU[0], runtime.faster_on_cpu(), runtime.bf16_on_cpu()
    began = time.perf_counter()
    precisions = tuple(runtime.measure_steps())
    measured = time.perf_counter() - began
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        for each in precisions:
            (own := Path(folder, each)).mkdir()
            loop = training(shape, own, runtime.start("cpu", precision=each))
            steps.append(epoch_of(loop, random_batches(loop, 1)))
        turns = repeats * shape.steps if measurable else 1  # bf16 without instructions for it takes seconds a step
        seconds = dict(zip(precisions, in_turn(steps, turns), strict=True))
    fastest, ours = min(seconds.values()), seconds[name]
    limit = ", ".join(f"{1000 * s:.0f} ms {each}" for each, s in seconds.items())
    ratio = ours / fastest
    return [
        BenchRow(
            f"a step of dino {shape.arch}/{shape.patch_size} in what --precision auto takes, {name}",
            f"{1000 * ours:.0f} ms", limit, ratio, "at most 1.05", ratio <= 1.05,
        ),
        BenchRow(
            "its measurement, remembered for a machine", f"{1000 * measured:.0f} ms", f"{1000 * fastest:.0f} ms a step",
            measured / fastest, *(("at most 100 ms", measured <= 0.1) if measurable else ("(for comparison)", None)),
        ),
    ]  # fmt: skip


def training(shape: Shape, folder: Path, started: runtime.Runtime) -> Any:
    """A Loop about to begin on photographs of ImageNet's usual size."""
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.loop import Loop

    images = shape.batch * shape.steps
    few = photographs(folder, min(PHOTOS, images))
    names = [few.ids[i % len(few)] for i in range(images)]
    train = dataclasses.replace(few, ids=names, labels=np.arange(images) % 10, fingerprint=digest(names))
    data = ImageClassification("photos", "photos", tuple("0123456789"), train, few, train.fingerprint)
    config = runs.configure(runs.load_method("dino"), {"batch": shape.batch, "epochs": 1000, **dict(shape.settings)})
    run = runs.Run(
        "dino", shape.arch, shape.image_size, shape.patch_size, shape.depth, "photos", dataclasses.asdict(config),
        started.precision,
    )  # fmt: skip
    loop = Loop(run, folder / "run", started, data)
    loop.method.train()
    return loop


@dataclass
class ReadyBatches:
    """A loader that has its batches already: tensors on the device."""

    batches: list[Any]

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Any]:
        return iter(self.batches)


def random_batches(loop: Any, steps: int) -> ReadyBatches:
    """Batches like the loader's, of noise; one in memory is enough."""
    example = next(iter(loop.loader.epoch(0)))
    views = [torch.randn_like(v) for v in example.views]
    return ReadyBatches([dataclasses.replace(example, views=views)] * steps)


def epoch_of(loop: Any, loader: Any) -> Callable[[], None]:
    """An epoch of the loop's own code on a loader, without what follows an epoch."""
    from dinobench.pretrain.checkpoints import Progress
    from dinobench.pretrain.collapse import EpochMeter

    def train() -> None:
        real, loop.loader = loop.loader, loader
        loop.at, loop.saved_at = Progress(EPOCH * loop.steps_per_epoch), time.monotonic()
        try:
            for _ in loop.steps(EPOCH, 0, EpochMeter()):
                pass
            loop.read_values(lag=0)
        finally:
            loop.loader = real

    return train


def overhead(loop: Any, shape: Shape, repeats: int) -> list[BenchRow]:
    """Whole steps on given views, optimizer, averages and logging included, over forward and backward alone."""
    # A GPU must not be waited for after every step. A CPU has others to serve: calls that alternate quickly are fairer.
    block = 1 if loop.runtime.device.type == "cpu" else shape.steps
    ready = random_batches(loop, block)

    def bare() -> None:
        for batch in ready.batches:
            with loop.runtime.autocast():
                loss = loop.method(batch.views, batch.labels, loop.now(0)).loss
            loss.backward()
            loop.optimizer.zero_grad(set_to_none=True)

    whole_step, bare_step = in_turn([epoch_of(loop, ready), bare], repeats * shape.steps // block)
    ours, limit = (f"{1000 * s / block:.0f} ms a step" for s in (whole_step, bare_step))
    what, ratio = f"{describe(loop, shape)}: loop on given views", whole_step / bare_step
    return [BenchRow(what, ours, f"{limit} forward and backward alone", ratio, "at most 1.10", ratio <= 1.1)]


def throughput(loop: Any, shape: Shape, repeats: int) -> list[BenchRow]:
    """Images per second from photographs, decoded once before the clock starts, over those of tensors of noise."""
    real, noise = in_turn([epoch_of(loop, loop.loader), epoch_of(loop, random_batches(loop, shape.steps))], repeats)
    images, ratio = shape.batch * shape.steps, noise / real
    limited = loop.runtime.device.type != "cpu"  # where the CPU makes views it does not train meanwhile
    return [
        BenchRow("the same on real data, views included", f"{images / real:.1f} images/s",
            f"{images / noise:.1f} images/s tensors on the device", ratio,
            "at least 0.85" if limited else "(for comparison)", ratio >= 0.85 if limited else None)
    ]  # fmt: skip


def shares(loop: Any) -> list[BenchRow]:
    """Where a step's time goes when nothing overlaps: the device is waited for after every part."""
    from dinobench.pretrain.checkpoints import Progress

    parts = dict.fromkeys(("views", "forward", "backward", "optimizer"), 0.0)
    clock = time.perf_counter()

    def done(part: str) -> None:
        nonlocal clock
        if loop.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        parts[part] += time.perf_counter() - clock
        clock = time.perf_counter()

    loop.at = Progress(EPOCH * loop.steps_per_epoch)
    for batch in loop.loader.epoch(EPOCH):
        done("views")
        with loop.runtime.autocast():
            loss = loop.method(batch.views, batch.labels, loop.now(loop.at.step)).loss
        done("forward")
        loss.backward()
        done("backward")
        loop.update(loss.detach().float())
        done("optimizer")
    steps, total = loop.steps_per_epoch, sum(parts.values())
    return [
        BenchRow(f"share of {name}" + (" and moving average" if name == "optimizer" else ""),
            f"{1000 * s / steps:.0f} ms", f"{1000 * total / steps:.0f} ms a step", s / total,
            "(for comparison)", None)
        for name, s in parts.items()
    ]  # fmt: skip


def describe(loop: Any, shape: Shape) -> str:
    """What is trained, on what, with the views that the loader makes."""
    counts: dict[int, int] = {}
    for view in loop.loader.views:
        counts[view.size] = counts.get(view.size, 0) + view.count
    views = " + ".join(f"{count} x {size}" for size, count in counts.items())
    depth = f" depth {shape.depth}" if shape.depth else ""
    kind = loop.runtime.device.type
    what = f"dino {shape.arch}/{shape.patch_size}{depth}, {views}, batch {shape.batch}"
    return f"{what}, {loop.runtime.precision}, {kind}"
