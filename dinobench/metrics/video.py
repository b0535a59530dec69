"""DAVIS scores of objects from their J and F in every frame: rows per object, and their summary."""

from __future__ import annotations

from collections.abc import Sequence

from dinobench import lazy
from dinobench.metrics.segmentation import statistics
from dinobench.types import Metric

with lazy.imports():
    import numpy as np
    import pandas as pd

STATISTICS = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay")
#: All in percent; decay is the score lost from the first to the last quarter of a video, so less is better.
METRICS = (
    Metric("J&F", primary=True),
    *(Metric(name, higher_is_better=not name.endswith("decay")) for name in STATISTICS),
)


def scored_frames(frames: int) -> range:
    """The frames that count: neither the first, which is given, nor the last (DAVIS 2017, semi-supervised).

    >>> list(scored_frames(5))
    [1, 2, 3]
    """
    return range(1, frames - 1)


def object_statistics(j: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Per-frame J and F, each (frames, objects), -> (objects, 6) in the order of `STATISTICS`."""
    return np.array([[*statistics(j[:, k]), *statistics(f[:, k])] for k in range(j.shape[1])])


def object_table(videos: Sequence[tuple[str, int]], values: np.ndarray) -> pd.DataFrame:
    """Rows of all objects of (video, number of objects) in order, (objects, 6) fractions as of `object_statistics`.

    Columns: id ("dog/1"), video, object, J&F and `STATISTICS`.
    """
    owners = [(name, k + 1) for name, objects in videos for k in range(objects)]
    table = pd.DataFrame(np.reshape(values, (-1, len(STATISTICS))), columns=list(STATISTICS))
    table.insert(0, "J&F", (table["J_mean"] + table["F_mean"]) / 2)
    table.insert(0, "object", [k for _, k in owners])
    table.insert(0, "video", [name for name, _ in owners])
    table.insert(0, "id", [f"{name}/{k}" for name, k in owners])
    return table


def official_csv(table: pd.DataFrame) -> dict[str, str]:
    """File name -> content, as davis2017-evaluation (`evaluation_method.py`) writes them: fractions, three decimals.

    Rows of objects are called `bike-packing_1`, columns `J-Mean` and so on; a decay that no object has is empty.
    """
    overall = table[["J&F", *STATISTICS]].mean().to_frame().T
    overall.columns = pd.Index(["J&F-Mean", *(name.replace("_", "-").title() for name in STATISTICS)])
    objects = pd.DataFrame({
        "Sequence": [f"{video}_{k}" for video, k in zip(table["video"], table["object"], strict=True)],
        "J-Mean": table["J_mean"], "F-Mean": table["F_mean"],
    })  # fmt: skip
    return {
        "global_results-val.csv": overall.to_csv(index=False, float_format="%.3f", lineterminator="\n"),
        "per-sequence_results-val.csv": objects.to_csv(index=False, float_format="%.3f", lineterminator="\n"),
    }


def averages(table: pd.DataFrame) -> dict[str, float]:
    """Percentages averaged over objects, not videos, by metric name; a decay that no object has is left out."""
    means = {metric.name: 100 * float(table[metric.name].mean()) for metric in METRICS}
    return {name: value for name, value in means.items() if not np.isnan(value)}
