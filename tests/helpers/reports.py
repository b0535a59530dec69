"""Results folders to make pages of, a hostile one among them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from helpers.samples import INFO, record

from dinobench.results import records
from dinobench.types import MetricValue

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


def made(model: str, score: float, **changes):
    """A k-NN record on digits scored at k = 10 and 20; `score` is that of k = 20."""
    run_id = changes.pop("run_id", f"{changes.get('protocol', 'knn')}-{model}-{changes.get('dataset', 'digits')}")
    values = {"top1@k10": score - 1, "top1@k20": score, "top5@k20": 99.0}
    return record(
        run_id,
        checkpoint=dataclasses.replace(INFO, name=model, weights_digest=model),
        metrics={name: MetricValue(v, v - 2, v + 2, 450, "%") for name, v in values.items()},
        **changes,
    )


SEVERAL = (
    made("dino", 74.0),
    made("byol", 70.5),
    made("random", 20.0),
    made("dino", 61.0, dataset="shapes", dataset_fingerprint="e" * 64),
    made("byol", 88.0, protocol="logreg", primary="top5@k20"),
)


def folder(path: Path, found=SEVERAL) -> Path:
    for r in found:
        records.write(path, r, None)
    return path
