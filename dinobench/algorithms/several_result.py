"""From scores of images that may show several classes to the result of a protocol: mean average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dinobench.metrics.robustness import best_precisions, from_one, map11_intervals
from dinobench.types import Result


def several_result(
    scores: np.ndarray, verdicts: np.ndarray, ids: Sequence[str], classes: Sequence[str], seed: int
) -> Result:
    """Scores (n, classes) and verdicts (n, classes), 1 shown, -1 not, 0 not counted -> mAP and DINOv3's, in per cent.

    Intervals are basic bootstraps over images; the notes hold each class's average precision. An item's `prediction`
    is the class of the highest score.
    """
    truth = scores, verdicts > 0, verdicts != 0
    best = best_precisions(*truth)
    intervals = zip(("mAP", "mAP_dinov3"), map11_intervals(*truth, seed=seed), strict=True)
    names = np.array(classes)
    items = pd.DataFrame({
        "id": list(ids),
        "label": [" | ".join(names[row > 0]) for row in verdicts],
        "prediction": names[scores.argmax(axis=1)],
    })  # fmt: skip
    with_positives = zip(names, best.mean(axis=1), strict=True)
    by_class = ", ".join(f"{c} {100 * ap:.1f}" for c, ap in with_positives if not np.isnan(ap))
    return Result(
        {"mAP": 100 * float(np.nanmean(best)), "mAP_dinov3": 100 * float(np.nanmean(from_one(best)))},
        items,
        intervals={name: (100 * low, 100 * high) for name, (low, high) in intervals},
        notes=[f"average precision by class: {by_class}"],
    )
