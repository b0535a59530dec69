"""How this machine does against the limits of the probes: many heads beside one, the grid on features, regressions."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dinobench import runtime
from dinobench.bench.knn import IMAGENET_TRAIN
from dinobench.bench.measure import BenchRow, added_mb, anonymous_mb, in_turn
from dinobench.context import LocalContext
from dinobench.data.image_split import ArraySplit, FileSplit
from dinobench.models.loading import load_backbone
from dinobench.types import Backbone, FeatureRequest, Features, ImageClassification, ImageSplit

ARCH = "vit_small_patch16_224"
WIDTH = 384
#: Images of imagenette's train and validation parts.
TRAIN, TEST = 9_469, 3_925
#: Train images of a small set, on which every step of the cached grid sees all of them.
SMALL = 1_000
#: ImageNet's classes, and the steps of a regression on made features of them.
CLASSES, STEPS = 1000, 3
#: scikit-learn fits one value of C in so many, the middle one: a loop over all 45 would take minutes.
EVERY = 9


class ClusteredContext(LocalContext):
    """A context that extracts nothing: features are one Gaussian cluster per class, drawn once per split and kept."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._drawn: dict[str, Features] = {}

    def features(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Features:
        if split.fingerprint not in self._drawn:
            drawn = clustered(split.labels, request.layers + 1)
            self._drawn[split.fingerprint] = Features(drawn[:, :-1], drawn[:, -1:], np.arange(len(split)))
        return self._drawn[split.fingerprint]


def clustered(labels: np.ndarray, blocks: int = 1, spread: float = 0.15) -> np.ndarray:
    """Labels (n,) -> (n, blocks, WIDTH) float32 whose variance falls as 1 / i over the columns, as in real features.

    `spread` is of the classes' centres in noise's standard deviations: at 0.15 a linear classifier errs now and then.
    """
    scale = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    centres = np.random.default_rng(0).standard_normal((int(labels.max()) + 1, blocks, WIDTH), np.float32)
    noise = np.random.default_rng(len(labels)).standard_normal((len(labels), blocks, WIDTH), np.float32)
    return scale * (spread * centres[labels] + noise)


def probes(repeats: int = 3, device: str = "cpu") -> list[BenchRow]:
    """All rows. `repeats` is of the first; what takes most of a minute anyway is measured once."""
    started = runtime.start(device)
    backbone = load_backbone(f"random:{ARCH}").to(started.device)
    ctx = ClusteredContext(started.device)
    return (
        heads(backbone, repeats, ctx) + grid(backbone, ctx, SMALL, 5) + grid(backbone, ctx) + regression(started.device)
    )


def heads(backbone: Backbone, repeats: int, ctx: LocalContext, classes: int = 1000) -> list[BenchRow]:
    """Training steps of the `dinov2` grid against those of one head: augmentation, forward pass and update.

    The batch is smaller than the profile's 1024 on a CPU, which is to the grid's disadvantage: its weights are updated
    more often per image. Head selection and tests, once in 1250 steps, are left out.
    """
    from dinobench.protocols.linear import profiles
    from dinobench.training.linear_probe import Probe

    batch = 64 if ctx.device.type == "cpu" else 1024
    all_heads = dataclasses.replace(profiles["dinov2"], batch=batch, epochs=1, steps_per_epoch=1)
    one_head = dataclasses.replace(all_heads, lr=(0.01,), blocks=(1,), mean_patch=(False,))
    data = _images(2 * batch, classes)

    def training(config: Any) -> Callable[[], None]:
        layout, probe_config = config.layout(backbone.embed_dim), config.probe_config()
        probe = Probe(backbone, data, layout, config.request(), config.augment(), probe_config, ctx)

        def train() -> None:
            for step in probe.steps(0):
                probe.classifiers.step(step.x, step.labels, 1.0, step.index)

        return train

    a, b = in_turn([training(all_heads), training(one_head)], repeats)
    count = len(all_heads.classifiers())
    what = f"linear dinov2, {count} heads, {ARCH} at 224, {batch} images, {classes} classes, {ctx.device.type}"
    return [BenchRow(what, f"{a:.2f} s", f"{b:.2f} s one head", a / b, "at most 1.3", a / b <= 1.3)]


def grid(
    backbone: Backbone, ctx: LocalContext, train: int = TRAIN, seconds: int = 40, classes: int = 10
) -> list[BenchRow]:
    """The whole `cached` profile on given features, against the matrix products that it cannot do without."""
    from dinobench.data.subsets import hold_out
    from dinobench.protocols.linear import profiles, run
    from dinobench.training.linear_classifiers import shares_are_cheaper

    config = profiles["cached"]
    data = _labels_only(classes, train)
    for split in (data.train, data.test):
        ctx.features(backbone, split, config.request())  # drawn before the clock starts
    learn, held = hold_out(data.train.labels, config.holdout, config.holdout_seed)
    steps = config.epochs * config.probe_config().order(len(learn), 0).steps_per_epoch
    layout, per_group = config.layout(WIDTH), classes * len(config.lr)
    tested = config.epochs * (len(held) + TEST)

    def products() -> None:
        def full(*shape: int) -> torch.Tensor:
            return torch.ones(shape, device=ctx.device)

        rows = min(config.batch, len(learn))
        x, gradient, tests = full(rows, layout.width), full(rows, per_group), full(TEST, layout.width)
        for columns in [layout.columns(b, m) for b in config.blocks for m in config.mean_patch]:
            weight = full(columns.stop - columns.start, per_group)
            for _ in range(steps):
                if rows < config.batch and shares_are_cheaper(
                    rows, len(weight)
                ):  # what the images' shares in the weights take
                    x[:, :rows] @ gradient
                else:
                    x[:, columns] @ weight
                    x[:, columns].T @ gradient
            for _ in range(round(tested / TEST)):
                tests[:, columns] @ weight

    a, b = (_seconds(call) for call in (lambda: run(backbone, data, config, ctx), products))
    what = (
        f"linear cached, {len(config.classifiers())} heads, {train:,} x {WIDTH}, {classes} classes, {ctx.device.type}"
    )
    return [BenchRow(what, f"{a:.1f} s", f"{b:.1f} s bare matrix products", a / b, f"under {seconds} s", a < seconds)]


def regression(device: torch.device, classes: int = 10) -> list[BenchRow]:
    """All values of C of the logreg protocol against scikit-learn's loop over them, at the same stopping rule.

    Both end a fit when no gradient of the mean loss exceeds the tolerance: the protocol's, or scikit-learn's default.
    """
    from dinobench.algorithms.logistic_regression import fit_path
    from dinobench.protocols.logreg import profiles

    config = profiles["dinov2"]
    labels = _labels_only(classes).train.labels
    x = torch.nn.functional.normalize(torch.from_numpy(clustered(labels)[:, 0]).double(), dim=1)
    strengths, ours = config.strengths(), x if device.type == "mps" else x.to(device)  # mps has no double precision
    y = torch.from_numpy(labels).to(ours.device)

    def path(tolerance: float) -> None:
        for _ in fit_path(ours, y, classes, strengths, tolerance=tolerance, max_iterations=config.max_iterations):
            pass

    # Beside a GPU one value of C has to do: scikit-learn's time on the CPU is not what is asked there.
    some = strengths[EVERY // 2 :: EVERY] if device.type == "cpu" else strengths[len(strengths) // 2 :][:1]
    scale = len(strengths) / len(some)
    threads = _better_threads(x.numpy(), labels, some[len(some) // 2])
    seconds = {}
    for tolerance in (config.tolerance, 1e-4):
        a = _seconds(lambda t=tolerance: path(t))  # type: ignore[misc]
        b = sum(_scikit_learn(x.numpy(), labels, c, tolerance, config.max_iterations, threads) for c in some)
        seconds[tolerance] = a, scale * b
    name = f"logreg, {len(strengths)} values of C, {TRAIN:,} x {WIDTH}, tolerance"
    limit = f"scikit-learn, {len(some)} values x {scale:g}, {threads} threads"
    rows = [
        BenchRow(f"{name} {t:g}", f"{a:.1f} s", f"{b:.1f} s {limit}", a / b, "at most 0.5", a / b <= 0.5)
        for t, (a, b) in seconds.items()
    ]
    a, b = seconds[config.tolerance][0], seconds[1e-4][1]
    what = f"the same, {config.tolerance:g} against scikit-learn's looser 1e-4"
    return [*rows, BenchRow(what, f"{a:.1f} s", f"{b:.1f} s scikit-learn", a / b, "(for comparison)", None)]


def regression_memory(few: int = 50_000, many: int = 200_000, classes: int = CLASSES) -> list[BenchRow]:
    """Memory that a regression of ImageNet's classes adds to its features, and that more images do not add to it.

    One value of C and a few steps: memory is in use from the first one. Time is told of `many`.
    """
    from dinobench.algorithms.logistic_regression import fit_path

    if anonymous_mb() is None:
        raise OSError("memory is read from /proc, which only Linux has")
    labels = np.random.default_rng(0).integers(0, classes, many)
    x, y = torch.from_numpy(clustered(labels)[:, 0]).double(), torch.from_numpy(labels)

    def steps(count: int) -> None:
        for _ in fit_path(x, y, classes, [1.0], rows=torch.arange(count), max_iterations=STEPS):
            pass

    steps(min(few, 1000))  # what the first call leaves to libraries is no matter of images
    at_few = added_mb(lambda: steps(few))
    began = time.perf_counter()
    at_many = added_mb(lambda: steps(many))
    seconds = (time.perf_counter() - began) / STEPS
    features = IMAGENET_TRAIN * WIDTH * 8 / 1e6
    grown = at_many + max(0.0, at_many - at_few) / (many - few) * (IMAGENET_TRAIN - many)
    whole = (features + grown) / 1000
    what = f"logreg, {classes:,} classes, {many:,} x {WIDTH}, {seconds:.1f} s a step: memory beside the features"
    return [
        BenchRow(
            what, f"{at_many:.0f} MB", f"{at_few:.0f} MB at {few:,}", at_many / at_few, "(for comparison)", None
        ),
        BenchRow(
            f"the same and the features in double precision, grown to {IMAGENET_TRAIN:,}", f"{whole:.1f} GB",
            f"{features / 1000:.1f} GB features", 1000 * whole / features, "under 12 GB", whole < 12,
        ),
    ]  # fmt: skip


def _scikit_learn(x: np.ndarray, labels: np.ndarray, c: float, tolerance: float, most: int, threads: int) -> float:
    """Seconds of one fit."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    model = LogisticRegression(C=c, solver="lbfgs", max_iter=most, tol=tolerance)
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fit has not converged
        return _seconds(lambda: model.fit(x, labels))


def _better_threads(x: np.ndarray, labels: np.ndarray, c: float) -> int:
    """One thread or all, whichever serves scikit-learn better: OpenBLAS's spinning threads crawl on a busy machine."""
    return min((1, torch.get_num_threads()), key=lambda n: _scikit_learn(x, labels, c, 1e-4, 100, n))


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _images(count: int, classes: int, height: int = 375, width: int = 500) -> ImageClassification:
    """Noise in memory, of ImageNet's usual size, two images of a class so that one can be held out."""
    labels = np.arange(count, dtype=np.int64) // 2 % classes
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    train = ArraySplit("train", pixels, [str(i) for i in range(count)], labels, "images, train")
    test = ArraySplit("test", pixels[:2], ["0", "1"], labels[:2], "images, test")
    return ImageClassification("noise", "none", tuple(map(str, range(classes))), train, test, "noise")


def _labels_only(classes: int, train: int = TRAIN) -> ImageClassification:
    """A data set of imagenette's size without images, for features that are given."""
    rng = np.random.default_rng(0)
    learn, test = (
        FileSplit(name, "", [str(i) for i in range(count)], rng.integers(0, classes, count), f"{count} labels, {name}")
        for name, count in (("train", train), ("test", TEST))
    )
    return ImageClassification("clusters", "none", tuple(map(str, range(classes))), learn, test, "clusters")
