"""Extraction of features beside the bare model on the same images; decoding by several workers beside one thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dinobench import console
from dinobench.bench.measure import BenchRow, in_turn, photographs
from dinobench.data.decoding import MOST_THREADS, decode, in_order, in_order_apart, usable_cpus

if TYPE_CHECKING:
    from dinobench.data.image_split import FileSplit
    from dinobench.runtime import Runtime


#: What extraction is asked to reach of the bare model: a small model waits longer for its images.
BARS = {"vit_tiny_patch16_224": 0.92, "vit_small_patch16_224": 0.96}
#: What a step of a GPU takes of images of this side, and the share of so many times one thread's that is asked.
SIDE, SHARE = 112, 0.7
#: Images that may wait: two batches of a GPU.
AHEAD = 128


def features(arch: str = "", images: int = 192, repeats: int = 3, device: str = "auto") -> list[BenchRow]:
    """Extraction from JPEG files through the feature service, against the bare model on tensors already in memory.

    The bare model is timm's own: every block on every token.
    """
    from dinobench import runtime

    started = runtime.start(device)
    with tempfile.TemporaryDirectory() as folder:
        split = photographs(Path(folder), images)
        return [_row(a, split, repeats, started, Path(folder)) for a in ([arch] if arch else BARS)]


def _row(arch: str, split: FileSplit, repeats: int, started: Runtime, folder: Path) -> BenchRow:
    from dinobench.data.transforms import ImageTransform
    from dinobench.features.service import BATCH, FeatureService
    from dinobench.models.loading import load_backbone
    from dinobench.types import FeatureRequest

    backbone = load_backbone(f"random:{arch}").to(started.device)
    module, images, bar = backbone.module, len(split), BARS.get(arch, 0.90)
    request, batch = FeatureRequest(ImageTransform()), BATCH[started.device.type != "cpu"]
    x = torch.randn(batch, 3, 224, 224, device=started.device)
    counts = [min(batch, images - i) for i in range(0, images, batch)]
    calls = iter(range(10_000))

    def ours() -> None:
        FeatureService(started, folder / f"{arch}-{next(calls)}").get(backbone, split, request)

    def limit() -> None:
        with started.inference():
            for count in counts:
                module(x[:count]).cpu()

    a, b = in_turn([ours, limit], repeats)
    ratio = b / a
    return BenchRow(
        f"{arch}, {images} JPEG files of 500 x 375, {started.device.type}", f"{images / a:.1f} images/s",
        f"{images / b:.1f} images/s bare model", ratio, f"at least {bar:.2f}", ratio >= bar,
    )  # fmt: skip


def decoding(repeats: int = 3, images: int = 2000) -> list[BenchRow]:
    """Files of `SIDE` pixels through as many workers as there are cores, all they give taken at once.

    The images of ImageNet at `SIDE` pixels are a few kilobytes: decoding is short, and Python's lock counts.
    """
    with tempfile.TemporaryDirectory() as place:
        paths = _small(Path(place), images)
        workers = usable_cpus()
        ways = {
            "one thread": lambda: in_order(_pixels, paths, threads=1, ahead=AHEAD, overlap=True),
            f"{min(workers, MOST_THREADS)} threads": lambda: in_order(
                _pixels, paths, threads=min(workers, MOST_THREADS), ahead=AHEAD, overlap=True
            ),
            "one process": lambda: in_order_apart(_pixels, paths, processes=1, ahead=AHEAD),
            f"{workers} processes": lambda: in_order_apart(_pixels, paths, processes=workers, ahead=AHEAD),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in console.progress(range(repeats), "Measuring", repeats):
            for way, results in ways.items():
                rates[way].append(_rate(results()))
    least, *others = (statistics.median(rates[way]) for way in ways)
    rows = []
    for way, rate in zip(list(ways)[1:], others, strict=True):
        bar = SHARE * int(way.split()[0]) if way[0].isdigit() else None
        asked = "(for comparison)" if bar is None else f"at least {bar:.1f}"
        what = f"decoding JPEG files of {SIDE} pixels, {way}"
        met = None if bar is None else rate / least >= bar
        rows.append(BenchRow(what, f"{rate:,.0f} a second", f"{least:,.0f} one thread", rate / least, asked, met))
    return rows


def _small(folder: Path, count: int) -> list[Path]:
    photo, names = photographs(folder, 1).load(0), []
    rng = np.random.default_rng(0)
    for i in range(count):
        left, top = int(rng.integers(0, photo.width - SIDE)), int(rng.integers(0, photo.height - SIDE))
        names.append(folder / f"small{i:05}.jpg")
        photo.crop((left, top, left + SIDE, top + SIDE)).save(names[-1], quality=90)
    return names


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(decode(path))


def _rate(results: Iterator[np.ndarray]) -> float:
    """Results a second from the first one on: starting processes is no part of it."""
    next(results)
    began = time.perf_counter()
    return sum(1 for _ in results) / (time.perf_counter() - began)
