"""Hostile files of items read in a process of its own: here, because such a process imports what it runs."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers.hostile_items import bombs, write_all
from helpers.mutations import bytes_mutated
from helpers.runs import run

from dinobench.compare.explain import explain
from dinobench.compare.pair import compare
from dinobench.compare.sanity import flags
from dinobench.errors import UserError
from dinobench.results import records
from dinobench.results.items import contradiction, path_of, read_items
from dinobench.results.provenance import peak_memory_mb
from dinobench.types import RunRecord

METRIC = "top1@k20"
RIGHT = np.arange(40) % 3 > 0


def two_runs(folder: Path) -> tuple[RunRecord, RunRecord]:
    columns = {"label": [f"c{i % 3}" for i in range(40)], "video": [f"v{i % 7}" for i in range(40)], "x": np.arange(40)}
    for name, right in (("a", RIGHT), ("b", RIGHT[::-1])):
        run(folder, name, right, columns=columns)
    a, b = records.read_all(folder)[0]
    return a, b


def read_everywhere(folder: Path, a: RunRecord, b: RunRecord) -> int:
    """Whether the items of `a` are read; every reader takes them or says in one line why not."""
    readers: tuple[Callable[[], object], ...] = (
        lambda: contradiction(folder, a),
        lambda: compare(folder, a, folder, b),
        lambda: compare(folder, a, folder, a),
        lambda: explain(a, b, (read_items(folder, a), read_items(folder, b))),
        lambda: flags(folder, [a, b]),
        lambda: read_items(folder, a),
    )
    read = 0
    for reader in readers:
        try:
            reader()
            read = 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            read = 0
    return read


def mutated(folder: Path, seed: int, n: int) -> None:
    a, b = two_runs(folder)
    path = path_of(folder, a.run_id)
    content, rng = path.read_bytes(), random.Random(seed)
    unsigned = dataclasses.replace(a, items_sha256=None)  # as records were before they held a digest
    read = 0
    for _ in range(n):
        path.write_bytes(bytes_mutated(content, rng))
        read += read_everywhere(folder, unsigned, b)
        assert path.read_bytes() == content or contradiction(folder, a)
    assert 0 < read < n / 2
    assert peak_memory_mb() < 2000


def odd_tables(folder: Path) -> None:
    warnings.simplefilter("error")
    a, b = two_runs(folder)
    path = path_of(folder, a.run_id)
    (folder / "odd").mkdir()
    for file in write_all(folder / "odd", METRIC):
        content = file.read_bytes()
        path.write_bytes(content)
        for digest in (None, hashlib.sha256(content).hexdigest()):
            for value in (float(a.metrics[METRIC].value), float("nan")):
                metrics = {METRIC: dataclasses.replace(a.metrics[METRIC], value=value)}
                read_everywhere(folder, dataclasses.replace(a, items_sha256=digest, metrics=metrics), b)


def small_files_of_much(folder: Path) -> None:
    a, b = two_runs(folder)
    before = peak_memory_mb()
    for file in sorted((folder / "bombs").iterdir()):
        path_of(folder, a.run_id).write_bytes(file.read_bytes())
        assert not read_everywhere(folder, dataclasses.replace(a, items_sha256=None), b)
    assert peak_memory_mb() - before < 500


def make_bombs(folder: Path) -> None:
    (folder / "bombs").mkdir()
    bombs(folder / "bombs", METRIC)
