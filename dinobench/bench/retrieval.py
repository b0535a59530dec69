"""Retrieval and copy detection against the bare matrix product, and the bare model at many sizes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinobench import runtime
from dinobench.algorithms.descriptors import unit_rows
from dinobench.bench.measure import BenchRow, in_turn
from dinobench.context import LocalContext
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.copydays import Copies
from dinobench.data.layouts.landmarks import LabelledImages
from dinobench.hashing import digest
from dinobench.models.loading import load_backbone

ARCH = "vit_small_patch16_224"
#: Copies of every original among the queries; the originals themselves are queries too, as in the protocol.
COPIES_EACH = 4


def retrieval(repeats: int = 1, device: str = "cpu") -> list[BenchRow]:
    """All rows. A search takes most of a minute on two cores, hence the one repeat unless asked for more."""
    started = runtime.start(device)
    with tempfile.TemporaryDirectory() as folder:
        ctx = LocalContext(started.device)
        return [
            *landmarks(max(repeats, 3), ctx, Path(folder)),
            labelled(max(repeats, 3), ctx),
            *searching(repeats, ctx),
        ]


def searching(
    repeats: int, ctx: LocalContext, queries: int = 10_000, database: int = 100_000, width: int = 1536
) -> list[BenchRow]:
    """Copy detection's search and scoring, intervals and tables included, against the bare matrix product."""
    from dinobench.protocols.copydetect import Config, score

    rng = np.random.default_rng(0)
    config, originals = Config(), queries // (COPIES_EACH + 1)
    rows = unit_rows(rng.standard_normal((database, width), np.float32))
    labels = np.arange(queries - originals) % originals
    noise = rng.standard_normal((len(labels), width), np.float32) / width**0.5
    features = {"strong": unit_rows(rows[labels] + 2 * noise), "original": rows[:originals]}
    data = Copies(
        "synthetic", "none", _names("original", np.arange(originals)), (_names("strong", labels),),
        _names("distractors", np.full(database - originals, -1)), None, "synthetic",
    )  # fmt: skip
    everything = np.concatenate(list(features.values()))

    def ours() -> None:
        score(data, features, rows, config, ctx, [])

    def limit() -> None:
        _product(everything, rows, ctx)

    a, b = in_turn([_unwarmed(ours), _unwarmed(limit)], repeats)
    what = f"copydetect, search and scoring, {queries:,} queries, {database:,} x {width}, {ctx.device.type}"
    limit_says = f"{b:.1f} s bare matrix product"
    return [BenchRow(what, f"{a:.1f} s", limit_says, a / b, "at most 1.3", a / b <= 1.3)]


def labelled(repeats: int, ctx: LocalContext, images: int = 32_000, width: int = 384, queries: int = 512) -> BenchRow:
    """Leave-one-out ranking of some of the images, of 10 classes, against the bare matrix product."""
    from dinobench.algorithms.ranking import leave_one_out, similarities

    rng = np.random.default_rng(0)
    rows = unit_rows(rng.standard_normal((images, width), np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, images)).to(ctx.device)

    def ours() -> None:
        database = torch.from_numpy(rows).to(ctx.device)
        for asked in torch.arange(queries, device=ctx.device).split(256):
            leave_one_out(similarities(database[asked], database), asked, labels)

    a, b = in_turn([ours, lambda: _product(rows[:queries], rows, ctx)], repeats)
    what = f"retrieval, leave-one-out, {queries} queries among {images:,} x {width}, 10 classes, {ctx.device.type}"
    limit = f"{1000 * b / queries:.2f} ms each, bare matrix product"
    return BenchRow(what, f"{1000 * a / queries:.2f} ms each", limit, a / b, "at most 3", a / b <= 3)


def _product(left: np.ndarray, right: np.ndarray, ctx: LocalContext) -> None:
    """All inner products of the rows, some at a time, none of them kept."""
    database = torch.from_numpy(right).to(ctx.device).T
    for part in torch.from_numpy(left).split(1000):
        part.to(ctx.device) @ database


def landmarks(repeats: int, ctx: LocalContext, folder: Path, images: int = 12) -> list[BenchRow]:
    """Descriptors at 512 pixels and three scales from JPEG files, against the bare model on tensors of those sizes."""
    from dinobench.features.extraction import BATCH_CPU, BATCH_GPU
    from dinobench.protocols.retrieval import SIZES, Config, run

    backbone = load_backbone(f"random:{ARCH}").to(ctx.device)
    side, scales = SIZES["rparis6k"]
    config = Config(image_size=side, scales=scales)
    split = _photos(folder, images)
    data = LabelledImages("photos", "none", split, ("a", "b"), split.fingerprint)
    multiple, size = backbone.size_multiple, BATCH_CPU if ctx.device.type == "cpu" else BATCH_GPU
    portraits = len(range(0, images, 3))
    batches = []
    for count, height, width in ((images - portraits, side * 3 // 4, side), (portraits, side, side * 3 // 4)):
        for scale in scales:
            h, w = (int(s * scale) // multiple * multiple for s in (height, width))
            x = torch.randn(count, 3, h, w, device=ctx.device)
            batches += list(x.split(size))

    def ours() -> None:
        split.loads.clear()
        run(backbone, data, config, ctx)

    def limit() -> None:
        with ctx.inference():
            for x in batches:
                backbone.features(x).cpu()

    a, b = in_turn([ours, limit], repeats)
    decodes = len(split.loads) / images
    what = f"retrieval, {ARCH}, {images} JPEG files of 1024 x 768 at {side}, {len(scales)} scales, {ctx.device.type}"
    rate, bare = f"{images / a:.2f} images/s", f"{images / b:.2f} images/s bare model"
    return [
        BenchRow(what, rate, bare, b / a, "at least 0.85", b / a >= 0.85),
        BenchRow("its decodes", f"{len(split.loads)}", f"{images} images", decodes, "at most 1", decodes <= 1),
    ]


@dataclass(eq=False)
class _Counted(FileSplit):
    """Files that remember which of them were decoded."""

    loads: list[int] = field(default_factory=list)

    def load(self, index: int) -> Image.Image:
        self.loads.append(index)
        return super().load(index)


def _photos(folder: Path, count: int) -> _Counted:
    """JPEG files of the landmark sets' size, every third one upright, from scikit-learn's two sample photographs.

    Grain makes up for the detail that an enlarged photograph lacks: the files are as large as those of Oxford5k.
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = [Image.fromarray(p).crop((0, 0, 568, 426)).resize((1024, 768)) for p in load_sample_images().images]
    names = []
    for i in range(count):
        grain = rng.normal(0, 8, (768, 1024, 1))
        photo = Image.fromarray(np.clip(np.asarray(photos[i % 2]) + grain, 0, 255).astype(np.uint8))
        names.append(f"{i:04}.jpg")
        (photo if i % 3 else photo.transpose(Image.Transpose.ROTATE_90)).save(folder / names[-1], quality=90)
    return _Counted("photos", str(folder), names, np.arange(count) % 2, digest(names))


def _names(name: str, labels: np.ndarray) -> FileSplit:
    """A split without images, for descriptors that are given."""
    return FileSplit(name, "", [f"{name}/{i:06}.jpg" for i in range(len(labels))], labels, name)


def _unwarmed(call: Callable[[], None]) -> Callable[[], None]:
    """The call without its first time: what takes so long would not show the warm-up of `in_turn`."""
    times = itertools.count()
    return lambda: call() if next(times) else None
