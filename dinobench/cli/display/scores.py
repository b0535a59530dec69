"""What `dinobench score` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dinobench import console, lazy
from dinobench.cli.display import layout

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from dinobench.types import Result

with lazy.imports():
    from dinobench.metrics.semantic import class_accuracy, class_iou


def videos(objects: pd.DataFrame, summary: Mapping[str, float]) -> None:
    """Scores of masks: a row per object, then the averages over objects."""
    columns = [c for c in objects.columns if c in summary]
    rows = [[row["id"], *(f"{100 * row[c]:.1f}" for c in columns)] for _, row in objects.iterrows()]
    layout.table("", ["object", *columns], [*rows, ["mean", *(f"{summary[c]:.1f}" for c in columns)]], right=columns)


def videos_json(objects: pd.DataFrame, summary: Mapping[str, float]) -> None:
    """`summary` in percent, `objects` as fractions."""
    console.text(json.dumps({"summary": dict(summary), "objects": objects.to_dict("records")}, indent=2))


def segmentation(classes: Sequence[str], areas: np.ndarray, result: Result) -> None:
    """A row per class with its IoU and accuracy, from `areas` (3, C), then the scores with their 95 % intervals."""
    rows = [[name, _percent(iou), _percent(acc)] for name, iou, acc in _per_class(classes, areas)]
    layout.table("", ["class", "IoU", "Acc"], rows, right=["IoU", "Acc"])
    images = len(result.items) if result.items is not None else 0
    for name, value in result.metrics.items():
        low_high = result.intervals.get(name)
        interval = f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""
        console.text(f"{name} {value:.2f}{interval}")
    console.text(f"{images:,} images, %, 95 % interval")


def segmentation_json(classes: Sequence[str], areas: np.ndarray, result: Result) -> None:
    """`summary` and `intervals` in percent, `classes` as fractions, null for a class that is nowhere."""
    rows = [{"id": n, "iou": _or_none(iou), "acc": _or_none(acc)} for n, iou, acc in _per_class(classes, areas)]
    images = len(result.items) if result.items is not None else 0
    out = {"summary": result.metrics, "intervals": result.intervals, "images": images, "classes": rows}
    console.text(json.dumps(out, indent=2, ensure_ascii=False))


def _per_class(classes: Sequence[str], areas: np.ndarray) -> list[tuple[str, float, float]]:
    return list(zip(classes, class_iou(areas).tolist(), class_accuracy(areas).tolist(), strict=True))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"
