"""How this machine does against the limit. Every figure is a ratio of two things measured in turn in the same run."""

from __future__ import annotations

import statistics
import tempfile
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


def knn(
    repeats: int = 3, queries: int = 10_000, train: int = 50_000, width: int = 384, classes: int = 1000
) -> list[BenchRow]:
    """All four k of the k-NN protocol, votes and ranks included, against faiss's exact search with k = 200 alone."""
    import faiss

    from dinobench.algorithms.nearest_neighbours import search
    from dinobench.protocols.knn import Config, vote

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((train + queries, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = torch.from_numpy(rng.integers(0, classes, train + queries))
    bank, probes, config = vectors[:train], vectors[train:], Config()

    def ours() -> None:
        similarity, index = search(probes, bank, max(config.k), normalise=True)
        vote(similarity, labels[index], labels[train:], classes, config)

    def limit() -> None:
        index = faiss.IndexFlatIP(width)
        index.add(bank)
        index.search(probes, max(config.k))

    def product() -> None:
        left, right = torch.from_numpy(probes), torch.from_numpy(bank).T
        for part in left.split(1000):
            part @ right

    a, b, c = in_turn([ours, limit, product], repeats)
    shape = f"{queries:,} queries over {train:,} x {width}, k = 10, 20, 100, 200"
    return [
        BenchRow(shape, f"{a:.2f} s", f"{b:.2f} s faiss, k = 200 alone", a / b, "at most 1.25", a / b <= 1.25),
        BenchRow("the same", f"{a:.2f} s", f"{c:.2f} s bare matrix product", a / c, "(for comparison)", None),
    ]


def memory(queries: int = 1000, train: int = 1_281_167, width: int = 384) -> list[BenchRow]:
    """Memory besides the mapped file while searching a memory-mapped train set of ImageNet's size."""
    from dinobench.algorithms.nearest_neighbours import search

    if _anonymous_mb() is None:
        raise OSError("memory is read from /proc, which only Linux has")
    with tempfile.TemporaryDirectory() as folder:
        bank = np.lib.format.open_memmap(Path(folder) / "bank.npy", mode="w+", dtype=np.float32, shape=(train, width))
        rng = np.random.default_rng(0)
        for start in range(0, train, 65_536):
            bank[start : start + 65_536] = rng.standard_normal(bank[start : start + 65_536].shape, dtype=np.float32)
        bank.flush()
        mapped = np.load(Path(folder) / "bank.npy", mmap_mode="r")
        probes = rng.standard_normal((queries, width), dtype=np.float32)
        with _PeakAnonymous() as peak:
            search(probes, mapped, 200, normalise=True, progress=console.progress)
    size = train * width * 4 / 1e6
    return [
        BenchRow(
            f"{queries:,} queries over {train:,} x {width}, memory-mapped",
            f"{peak.mb:,.0f} MB",
            f"{size:,.0f} MB mapped",
            peak.mb / size,
            "under 1,500 MB",
            peak.mb < 1500,
        )
    ]


def features(arch: str, images: int, repeats: int, device: str) -> list[BenchRow]:
    """Extraction from JPEG files through the feature service, against the bare model on tensors already in memory."""
    from dinobench import runtime
    from dinobench.data.transforms import ImageTransform
    from dinobench.features.service import BATCH, FeatureService
    from dinobench.models.loading import load_backbone
    from dinobench.types import FeatureRequest

    started = runtime.start(device)
    backbone = load_backbone(f"random:{arch}").to(started.device)
    with tempfile.TemporaryDirectory() as folder:
        split = photos_like_imagenet(Path(folder), images)
        request = FeatureRequest(ImageTransform())
        batch = BATCH[started.device.type != "cpu"]
        x = torch.randn(batch, 3, 224, 224, device=started.device)
        counts = [min(batch, images - i) for i in range(0, images, batch)]
        calls = iter(range(10_000))

        def ours() -> None:
            FeatureService(started, Path(folder) / f"cache{next(calls)}").get(backbone, split, request)

        def limit() -> None:
            with started.inference():
                for count in counts:
                    backbone.features(x[:count]).cpu()

        a, b = in_turn([ours, limit], repeats)
    ratio = b / a
    return [
        BenchRow(f"{arch}, {images} JPEG files of 500 x 375, {started.device.type}", f"{images / a:.1f} images/s",
            f"{images / b:.1f} images/s bare model", ratio, "at least 0.90", ratio >= 0.90)
    ]  # fmt: skip


def photos_like_imagenet(folder: Path, count: int) -> FileSplit:
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


def _anonymous_mb() -> float | None:
    """This process's memory that no file backs, in MB (10^6 bytes), as Linux tells it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon")), None)


class _PeakAnonymous:
    """The peak of `_anonymous_mb` inside a with block, looked at every 20 ms."""

    mb = 0.0

    def __enter__(self) -> _PeakAnonymous:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.mb = max(self.mb, _anonymous_mb() or 0.0)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
