"""How this machine does against the limit. Every figure is a ratio of two things measured in turn in the same run."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from dinobench import console
from dinobench.hashing import digest

if TYPE_CHECKING:
    from dinobench.data.image_split import FileSplit


@dataclass(frozen=True)
class BenchRow:
    """One comparison; `bar` is what the ratio is asked to be, `met` None where nothing is asked."""

    what: str
    ours: str
    limit: str
    ratio: float
    bar: str
    met: bool | None


def photographs(folder: Path, count: int) -> FileSplit:
    """JPEG files of ImageNet's usual size and quality, cut from scikit-learn's two sample photographs."""
    from sklearn.datasets import load_sample_images

    from dinobench.data.image_split import FileSplit

    rng = np.random.default_rng(0)
    photos = [Image.fromarray(p) for p in load_sample_images().images]
    names = []
    for i in range(count):
        photo = photos[i % 2]
        left, top = int(rng.integers(0, photo.width - 500)), int(rng.integers(0, photo.height - 375))
        names.append(f"{i:04}.jpg")
        photo.crop((left, top, left + 500, top + 375)).save(folder / names[-1], quality=90)
    return FileSplit("photos", str(folder), names, np.zeros(count, np.int64), digest(names))


def in_turn(calls: list[Callable[[], None]], repeats: int) -> list[float]:
    """Median seconds of each call, after one warm-up, called A B C A B C ... since the machine's speed drifts."""
    seconds: list[list[float]] = [[] for _ in calls]
    rounds = range(repeats + 1)
    for i in console.progress(rounds, "Measuring", len(rounds)):
        for call, times in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]


def anonymous_mb() -> float | None:
    """This process's memory that no file backs, in MB (10^6 bytes), as Linux tells it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon")), None)


class PeakMemory:
    """The peak of `anonymous_mb` inside a with block, looked at every 20 ms."""

    mb = 0.0

    def __enter__(self) -> PeakMemory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.mb = max(self.mb, anonymous_mb() or 0.0)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def added_mb(call: Callable[[], object]) -> float:
    """How far memory rises during a call, in MB; what earlier calls left to the allocator counts for none."""
    before = anonymous_mb() or 0.0
    with PeakMemory() as peak:
        call()
        time.sleep(0.03)
    return max(peak.mb - before, 1.0)


def memory_beside(ours: Callable[[], object], dense: Callable[[], object], device: torch.device) -> list[BenchRow]:
    """The row of what memory both calls add, at most a fifth asked for; none where memory cannot be told.

    Ask before `in_turn`: what its calls leave to the allocator would hide what these add.
    """
    if device.type != "cpu" or not anonymous_mb():
        return []
    own, limit = added_mb(ours), added_mb(dense)
    share = own / limit
    return [BenchRow("its memory", f"{own:.0f} MB", f"{limit:.0f} MB dense", share, "at most 0.2", share <= 0.2)]
