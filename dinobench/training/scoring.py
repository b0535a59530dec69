"""Scored test images as the Result of a protocol that trains a classifier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from dinobench.types import ImageClassification, Result


def classification_result(
    data: ImageClassification,
    rows: np.ndarray,
    predicted: torch.Tensor,
    ranks: torch.Tensor,
    columns: Mapping[str, torch.Tensor],
    notes: list[str],
) -> Result:
    """top-1, top-5 and the metrics of `columns` on the test images `rows` (n,) of the split.

    predicted (n,): the class chosen; ranks (n,): place of the true class, 0 is right; columns: name -> (n,) bool,
    right or wrong by some other choice than the last epoch's.
    """
    right = {"top1": ranks == 0, "top5": ranks < 5, **columns}
    items = {
        "id": [data.test.ids[int(i)] for i in rows],
        "label": [data.classes[i] for i in data.test.labels[rows]],
        "prediction": [data.classes[i] for i in predicted],
        **{name: column.numpy() for name, column in right.items()},
    }
    values = {name: 100 * float(column.double().mean()) for name, column in right.items()}
    return Result(values, pd.DataFrame(items), notes=notes)
