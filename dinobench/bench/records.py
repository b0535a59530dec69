"""Ten thousand records, as a team has after a year: listed, compared, put on a page."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dinobench.bench.measure import BenchRow

#: Bytes that a page of ten thousand runs may have: it still goes by mail.
PAGE = 8_000_000


def records(repeats: int = 3) -> list[BenchRow]:
    """Seconds of wall clock, the least of several, beside parsing the same files as JSON."""
    from dinobench.compare import gate as gates
    from dinobench.compare import sanity, table
    from dinobench.compare.ties import TellByItems
    from dinobench.report import page
    from dinobench.results import leaderboard
    from dinobench.results.comparability import read_records
    from dinobench.results.listing import read_folder

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fill(folder, 10_000)

        def parsed() -> None:
            for path in (folder / "runs").iterdir():
                json.loads(path.read_bytes())

        def compared() -> None:
            found, _ = read_records(folder)
            with TellByItems(folder) as tell:
                table.compare(found, flags=sanity.flags(folder, found), tell=tell)

        commands: list[tuple[str, float | None, Callable[[], object]]] = [
            ("compare", 3.0, compared),
            ("leaderboard", 3.0, lambda: leaderboard.build(folder)),
            ("report", 5.0, lambda: page.write(folder, folder / "page.html")),
            ("gate", None, lambda: gates.gate(folder, folder)),
            ("check", None, lambda: read_folder(folder, afresh=True)),
        ]
        least = [float("inf")] * (len(commands) + 1)
        for _ in range(repeats):
            for i, call in enumerate((parsed, *(call for _, _, call in commands))):
                began = time.perf_counter()
                call()
                least[i] = min(least[i], time.perf_counter() - began)
        size = (folder / "page.html").stat().st_size
    limit, *ours = least
    rows = [
        BenchRow(f"{name}, 10,000 records", f"{seconds:.2f} s", f"{limit:.2f} s to parse them", seconds / limit,
                 f"at most {bar:g} s" if bar else "", None if bar is None else seconds <= bar)
        for (name, bar, _), seconds in zip(commands, ours, strict=True)
    ]  # fmt: skip
    bar = f"at most {PAGE / 1e6:g} MB"
    share = BenchRow("page of 10,000 records", f"{size / 1e6:.1f} MB", bar, size / PAGE, bar, size <= PAGE)
    return [*rows, share]


def fill(results: Path, n: int) -> None:
    """`n` made records of fifty models, ten protocols and twenty data sets, each with eight metrics and digests."""
    rng = random.Random(0)
    (results / "runs").mkdir(parents=True)
    for i in range(n):
        model, test = i % 50, i // 50
        scores = [round(rng.uniform(20, 90), 12) for _ in range(8)]
        metrics = {
            f"top{a}@k{k}": {"value": s, "ci_low": s - rng.random(), "ci_high": s + rng.random(), "n": 450, "unit": "%"}
            for s, (a, k) in zip(scores, ((a, k) for k in (10, 20, 100, 200) for a in (1, 5)), strict=True)
        }
        one = {
            "schema": 1, "run_id": f"knn-model{model}-set{test}-{_digest(i)[:10]}", "protocol": f"p{test % 10}",
            "protocol_version": 1, "profile": "dino2021",
            "config": {"k": [10, 20, 100, 200], "temperature": 0.07, "resize": 256, "crop": 224},
            "config_hash": _digest(f"config {test % 10}"), "dataset": f"set{test}", "dataset_layout": "imagefolder",
            "dataset_fingerprint": _digest(f"data {test}"),
            "checkpoint": {
                "name": f"model{model}", "path": f"checkpoints/model{model}.pth", "sha256": _digest(f"file {model}"),
                "weights_digest": _digest(f"weights {model}"), "format": "dino", "key": "teacher", "arch": "vit_small",
                "patch_size": 16, "embed_dim": 384, "depth": 12, "heads": 6, "registers": 0, "method": "dino",
                "epoch": 100, "image_size": 224, "missing": [], "unexpected": [],
            },
            "seed": 0, "precision": "32", "metrics": metrics, "primary": "top1@k20",
            "started_at": f"2026-01-{1 + i % 28:02}T12:{i % 60:02}:00+00:00", "duration_s": round(rng.random() * 99, 3),
            "device": "cpu", "processes": 1, "peak_memory_mb": round(rng.random() * 999, 1), "broken_images": 0,
            "notes": [], "versions": {"python": "3.11.7", "torch": "2.6.0", "numpy": "2.2.0"},
            "dinobench_version": "0.1.0", "git_commit": _digest("commit")[:40], "git_dirty": False,
            "items_sha256": _digest(f"items {i}"),
        }  # fmt: skip
        path = results / "runs" / f"{one['run_id']}.json"
        path.write_text(json.dumps(one, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(of: object) -> str:
    return hashlib.sha256(str(of).encode()).hexdigest()
