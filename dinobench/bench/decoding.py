"""How many small images a second are decoded, by threads and by processes, beside one thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dinobench import console
from dinobench.bench.measure import BenchRow, photographs
from dinobench.data.decoding import MOST_THREADS, decode, in_order, in_order_apart, usable_cpus

#: What a step of a GPU takes of images of this side, and the share of so many times one thread's that is asked.
SIDE, SHARE = 112, 0.7
#: Images that may wait: two batches of a GPU.
AHEAD = 128


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
