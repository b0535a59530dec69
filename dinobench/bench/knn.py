"""The k-NN protocol beside the bare matrix product and other searches, and the memory it takes at ImageNet's size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from dinobench import console
from dinobench.bench.measure import BenchRow, PeakMemory, anonymous_mb, in_turn

K = (10, 20, 100, 200)
#: ImageNet's train and val images; the classes of ImageNet-22k.
IMAGENET_TRAIN, IMAGENET_VAL, CLASSES_22K = 1_281_167, 50_000, 21_841
#: Queries whose similarities are computed at a time where no search decides it.
AT_ONCE = 1000


def knn(
    repeats: int = 3,
    queries: int = 10_000,
    few: int = 300,
    train: int = 50_000,
    width: int = 384,
    classes: int = 1000,
) -> list[BenchRow]:
    """All four k of the k-NN protocol, votes and ranks included, against the product alone, and beside other searches.

    The others give the labels of 200 neighbours at most, and are measured where they are installed.
    """
    from dinobench.algorithms.nearest_neighbours import search
    from dinobench.protocols.knn import Config, vote

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((train + queries, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = torch.from_numpy(rng.integers(0, classes, train + queries))
    bank, probes, config = vectors[:train], vectors[train:], Config(k=K)

    def ours(n: int) -> Callable[[], None]:
        def call() -> None:
            similarity, index = search(probes[:n], bank, max(K), normalise=True)
            vote(similarity, labels[index], labels[train : train + n], classes, config)

        return call

    def product(n: int) -> Callable[[], None]:
        def call() -> None:
            left, right = torch.from_numpy(probes[:n]), torch.from_numpy(bank).T
            for part in left.split(AT_ONCE):
                part @ right

        return call

    rows = []
    for n, bar, times in ((queries, 1.25, repeats), (few, 1.5, 3 * repeats)):
        a, b = in_turn([ours(n), product(n)], times)
        shape = f"{n:,} queries over {train:,} x {width}, k = {', '.join(map(str, K))}"
        limit = f"{1000 * b / n:.3f} ms each, bare matrix product"
        rows.append(BenchRow(shape, f"{1000 * a / n:.3f} ms each", limit, a / b, f"at most {bar}", a / b <= bar))
    n = min(AT_ONCE, queries)
    others = _others(probes[:n], bank, labels[:train], classes)
    own, *seconds = in_turn([ours(n), *others.values()], repeats)
    for name, taken in zip(others, seconds, strict=True):
        what, them = f"{n:,} queries, the same", f"{1000 * taken / n:.3f} ms each, {name}"
        rows.append(BenchRow(what, f"{1000 * own / n:.3f} ms each", them, own / taken, "at most 1", own <= taken))
    return rows


def _others(probes: np.ndarray, bank: np.ndarray, labels: torch.Tensor, classes: int) -> dict[str, Callable[[], None]]:
    """Name -> the search of 200 neighbours as others do it."""
    left, right = torch.from_numpy(probes), torch.from_numpy(bank)

    def lightly() -> None:
        """What lightly's knn_predict does for a batch: topk of all products, a table of votes by neighbour."""
        for part in left.split(256):
            weight, index = (part @ right.T).topk(max(K), dim=-1)
            table = torch.zeros(index.numel(), classes).scatter_(1, labels[index].view(-1, 1), 1.0)
            votes = table.view(len(part), -1, classes) * (weight / 0.07).exp()[..., None]
            votes.sum(dim=1).argsort(dim=1, descending=True)

    def solo_learn() -> None:
        """What solo-learn's WeightedKNNClassifier does: the same with all queries' products in chunks of 100."""
        for part in left.split(100):
            weight, index = (part @ right.T).topk(max(K), largest=True, sorted=True)
            table = torch.zeros(index.numel(), classes).scatter_(1, labels[index].view(-1, 1), 1)
            votes = (table.view(len(part), -1, classes) * (weight / 0.07).exp().view(len(part), -1, 1)).sum(dim=1)
            votes.sort(1, True)

    calls: dict[str, Callable[[], None]] = {"lightly's way": lightly, "solo-learn's way": solo_learn}
    if find_spec("faiss"):
        import faiss

        def by_faiss() -> None:
            faiss.knn(probes, bank, max(K), metric=faiss.METRIC_INNER_PRODUCT)

        calls["faiss, search alone"] = by_faiss
    if find_spec("sklearn"):
        from sklearn.neighbors import NearestNeighbors

        model = NearestNeighbors(n_neighbors=max(K), metric="cosine", algorithm="brute").fit(bank)

        def by_sklearn() -> None:
            model.kneighbors(probes)

        calls["scikit-learn, search alone"] = by_sklearn
    return calls


def memory(scale: float = 0.02, train: int = IMAGENET_TRAIN, width: int = 384) -> list[BenchRow]:
    """Time and memory besides the mapped file of k-NN with a memory-mapped train set of ImageNet's size.

    `scale` is the share of ImageNet's 50,000 val images that are queries; classes are those of ImageNet-22k.
    """
    from dinobench.algorithms.nearest_neighbours import search
    from dinobench.protocols.knn import Config, vote

    if anonymous_mb() is None:
        raise OSError("memory is read from /proc, which only Linux has")
    queries = max(1, round(scale * IMAGENET_VAL))
    with tempfile.TemporaryDirectory() as folder:
        bank = np.lib.format.open_memmap(Path(folder) / "bank.npy", mode="w+", dtype=np.float32, shape=(train, width))
        rng = np.random.default_rng(0)
        for start in range(0, train, 65_536):
            bank[start : start + 65_536] = rng.standard_normal(bank[start : start + 65_536].shape, dtype=np.float32)
        bank.flush()
        mapped = np.load(Path(folder) / "bank.npy", mmap_mode="r")
        probes = rng.standard_normal((queries, width), dtype=np.float32)
        labels = torch.from_numpy(rng.integers(0, CLASSES_22K, train + queries))
        peaks = []

        def ours() -> None:
            before = anonymous_mb() or 0.0
            with PeakMemory() as peak:
                similarity, index = search(probes, mapped, max(K), normalise=True, progress=console.progress)
                vote(similarity, labels[index], labels[train:], CLASSES_22K, Config(k=K))
            peaks.append(peak.mb - before)

        def product() -> None:
            for start in range(0, train, 65_536):
                right = torch.from_numpy(np.array(mapped[start : start + 65_536])).T
                for part in torch.from_numpy(probes).split(AT_ONCE):
                    part @ right

        a, b = in_turn([ours, product], 1)
    size, most = train * width * 4 / 1e6, max(peaks)
    what = f"{queries:,} queries over {train:,} x {width}, memory-mapped, {CLASSES_22K:,} classes"
    return [
        BenchRow(what, f"{a:,.1f} s", f"{b:,.1f} s bare matrix product", a / b, "at most 1.25", a / b <= 1.25),
        BenchRow("its memory", f"{most:,.0f} MB", f"{size:,.0f} MB mapped", most / size, "under 1,500 MB", most < 1500),
    ]
