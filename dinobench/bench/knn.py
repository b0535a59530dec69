"""The k-NN protocol's search beside faiss, and the memory it takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from dinobench import console
from dinobench.bench.measure import BenchRow, PeakMemory, anonymous_mb, in_turn


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

    if anonymous_mb() is None:
        raise OSError("memory is read from /proc, which only Linux has")
    with tempfile.TemporaryDirectory() as folder:
        bank = np.lib.format.open_memmap(Path(folder) / "bank.npy", mode="w+", dtype=np.float32, shape=(train, width))
        rng = np.random.default_rng(0)
        for start in range(0, train, 65_536):
            bank[start : start + 65_536] = rng.standard_normal(bank[start : start + 65_536].shape, dtype=np.float32)
        bank.flush()
        mapped = np.load(Path(folder) / "bank.npy", mmap_mode="r")
        probes = rng.standard_normal((queries, width), dtype=np.float32)
        with PeakMemory() as peak:
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
