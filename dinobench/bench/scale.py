"""What a set of ImageNet's size takes before the first forward pass and after the last: time and memory per file."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dinobench.bench.measure import BenchRow, PeakMemory, anonymous_mb

#: Training images of ImageNet-1k (arXiv 1409.0575, table 2).
IMAGENET = 1_281_167
#: Memory that such a set may take, in MB.
ROOM = 2000
CLASSES = 1000
#: Hard links of one file: most file systems allow 65,000.
LINKS = 30_000


def scale(images: int = 50_000) -> list[BenchRow]:
    """Listing, first and second fingerprint of `images` tiny files, and the items of as many.

    Files that are links to one another cost what the suite does with a file, and not what a disk takes to read it.
    Ratios are memory, grown to ImageNet's number of files, to `ROOM`.
    """
    import pandas as pd

    from dinobench.data import load_dataset
    from dinobench.data.layouts.imagefolder import scan_split
    from dinobench.files import SETTLED_NS
    from dinobench.results.items import stage
    from dinobench.results.parquet import read_frame

    images = max(images, 2 * CLASSES)
    with tempfile.TemporaryDirectory() as folder, _cache(Path(folder) / "cache"):
        tree = Path(folder) / "tree"
        _make(tree, images)
        time.sleep(SETTLED_NS / 1e9)  # what was written just now is not remembered
        ids = [f"train/n{i % CLASSES:08}/ILSVRC2012_train_{i:08}.JPEG" for i in range(images)]
        items = pd.DataFrame({"id": ids, "label": np.arange(images) % CLASSES, "top1": np.arange(images) % 3 > 0})
        calls: dict[str, Callable[[], object]] = {
            "listing": lambda: scan_split(tree, "train", []),
            "listing, hashes and labels": lambda: load_dataset(str(tree)),
            "the same again": lambda: load_dataset(str(tree)),
            "items written": lambda: stage(Path(folder), "run", items)[0],
            "items read": lambda: read_frame(next((Path(folder) / "items").iterdir()).read_bytes()),
        }
        return [_row(f"{what}, {images:,} files", call, images) for what, call in calls.items()]


def _row(what: str, call: Callable[[], object], images: int) -> BenchRow:
    before, began = anonymous_mb() or 0.0, time.perf_counter()
    with PeakMemory() as peak:
        kept = call()
        seconds = time.perf_counter() - began
    del kept
    grown = max(peak.mb - before, 0.0) * IMAGENET / images
    ours = f"{seconds:.1f} s, {1e6 * seconds / images:.0f} µs each"
    limit = f"{grown:,.0f} MB at {IMAGENET:,} files, of {ROOM:,}"
    return BenchRow(what, ours, limit, grown / ROOM, "at most 1", grown <= ROOM if anonymous_mb() else None)


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """A cache folder of its own."""
    before = os.environ.get("DINOBENCH_CACHE")
    os.environ["DINOBENCH_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["DINOBENCH_CACHE"]
        else:
            os.environ["DINOBENCH_CACHE"] = before


def _make(tree: Path, images: int) -> None:
    """A folder of classes with `images` files, a twentieth of them for testing."""
    content = BytesIO()
    Image.new("RGB", (4, 4)).save(content, "JPEG")
    for split in ("train", "val"):
        for c in range(CLASSES):
            (tree / split / f"n{c:08}").mkdir(parents=True)
            (tree / split / f"n{c:08}" / "ILSVRC2012_first.JPEG").write_bytes(content.getvalue())
    source = None
    for i in range(images - 2 * CLASSES):
        split = "val" if i // CLASSES % 20 == 19 else "train"
        path = tree / split / f"n{i % CLASSES:08}" / f"ILSVRC2012_{split}_{i:08}.JPEG"
        if source is None or i % LINKS == 0 or not hasattr(os, "link"):
            path.write_bytes(content.getvalue())
            source = path
        else:
            os.link(source, path)
