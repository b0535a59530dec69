"""The scores of semantic segmentation with their intervals, from what was counted in every image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dinobench.metrics.semantic import class_accuracy, class_iou, mean_of, scores, share
from dinobench.stats.jackknife import jackknife_interval
from dinobench.types import Result

#: What is a mean over classes of ratios of sums, or one such ratio: areas (m, 3, C) summed over images -> (m,).
STATISTICS = {
    "mIoU": lambda areas: mean_of(class_iou(areas)),
    "mAcc": lambda areas: mean_of(class_accuracy(areas)),
    "aAcc": lambda areas: share(areas[..., 0, :].sum(axis=-1), areas[..., 2, :].sum(axis=-1)),
}


def semantic_result(ids: Sequence[str], areas: np.ndarray) -> Result:
    """mIoU, mAcc and aAcc in percent of images with `areas` (n, 3, C), as `dinobench.metrics.semantic.areas` has them.

    Items hold each image's own mean IoU over the classes in it and its share of right pixels: not the metrics, which
    are no means of these; so the metrics' intervals are the jackknife's over images.
    """
    values = {name: 100 * value for name, value in scores(areas.sum(axis=0)).items()}
    items = pd.DataFrame(
        {
            "id": list(ids),
            "image_iou": mean_of(class_iou(areas)),
            "image_acc": STATISTICS["aAcc"](areas),
            "labelled": areas[:, 2].sum(axis=1),
        }
    )
    intervals = {}
    for name, statistic in STATISTICS.items():
        if (bounds := jackknife_interval(areas, statistic)) is not None:
            intervals[name] = (100 * max(0.0, bounds[0]), 100 * min(1.0, bounds[1]))
    return Result(values, items, intervals=intervals)
