"""What a data set is reported by beside the mean over its test images, made of a protocol's top-1 by item.

Each is a mean over items again, of other weights than one, so that it has items and an interval as others do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dinobench.data.other_tests.imagenet_c import CELL
from dinobench.metrics.robustness import ALEXNET, ALEXNET_EXTRA, class_weights
from dinobench.types import Metric, Result

#: Metrics that others are made of: top-1 of the score that a protocol ends with, per k where it has several.
TOP1 = "top1"


def extend(report: str, result: Result, declared: Sequence[Metric]) -> list[Metric]:
    """Put what the data set is reported by into the result, for every top-1 in it; returns what is declared then.

    The new ones go first, and the one of the protocol's primary metric is primary.
    """
    made = {"mCE": _corruption_errors, "mean_per_class": _means_per_class}[report]
    sources = [m for m in declared if m.name.split("@")[0] == TOP1 and m.name in result.metrics]
    new = [
        dataclasses.replace(added, primary=added.primary and source.primary)
        for source, several in zip(sources, made(result, [s.name for s in sources]), strict=True)
        for added in several
    ]
    return [*new, *(dataclasses.replace(m, primary=m.primary and not new) for m in declared)]


def _corruption_errors(result: Result, sources: Sequence[str]) -> list[list[Metric]]:
    """mCE over the standard 15, and over all that are there as DINOv3's table has it.

    mCE is the mean over corruptions of (errors, mean over levels, by AlexNet's): each of N test images adds its
    error × N / (corruptions × levels × images of its cell × AlexNet's). The items are then the images that were
    corrupted: all corruptions of one depend on each other, and ImageNet's would be millions.
    """
    items = result.items
    assert items is not None
    found = [CELL.search(str(name)) for name in items["id"]]
    assert all(found), "ids of ImageNet-C name the corruption and its level"
    parts = pd.DataFrame([match.groups() for match in found if match], columns=["kind", "level", "image"])
    kind, scores, metrics = parts["kind"], {n: items[n].to_numpy(np.float64) for n in result.metrics if n in items}, []
    for source in sources:
        suffix, error = source.removeprefix(TOP1), pd.Series(1 - scores[source])
        cells = error.groupby([kind, parts["level"]])
        size, own = cells.transform("size"), cells.mean().groupby("kind").mean()
        told = ", ".join(f"{name} {100 * own[name]:.1f}" for name in (*ALEXNET, *ALEXNET_EXTRA) if name in own)
        result.notes.append(f"error by corruption{f' ({suffix[1:]})' if suffix else ''}: {told}")
        for name, alexnet in (("mCE", ALEXNET), ("mCE_dinov3", ALEXNET | ALEXNET_EXTRA)):
            counts = kind.isin(alexnet)
            levels = kind.map(parts[counts].groupby("kind")["level"].nunique())
            share = kind[counts].nunique() * levels * size * kind.map(alexnet)
            scores[name + suffix] = (error * counts.sum() / share).where(counts).to_numpy()
            result.metrics[name + suffix] = 100 * float(np.nanmean(scores[name + suffix]))
        metrics.append([
            Metric(f"mCE{suffix}", higher_is_better=False, primary=True),
            Metric(f"mCE_dinov3{suffix}", higher_is_better=False),
        ])  # fmt: skip
    table = pd.DataFrame(scores)
    by_image = table.groupby(parts["image"], sort=False).sum()
    # A sum by image times this has the mean of all test images, also where some could not be read.
    rows = by_image * len(by_image) / table.count()
    rows.insert(0, "id", rows.index)
    result.items = rows.reset_index(drop=True)
    return metrics


def _means_per_class(result: Result, sources: Sequence[str]) -> list[list[Metric]]:
    """The mean over classes of the share that is right: that over images of right × N / (classes × images of its)."""
    items = result.items
    assert items is not None
    weights = class_weights(items["label"].to_numpy(str))
    metrics = []
    for source in sources:
        name = "mean_per_class" + source.removeprefix(TOP1)
        items[name] = items[source].to_numpy(np.float64) * weights
        result.metrics[name] = 100 * float(items[name].mean())
        metrics.append([Metric(name, primary=True)])
    return metrics
