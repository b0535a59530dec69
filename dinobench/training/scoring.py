"""Scores of a trained classifier as the Result of a protocol, and released heads scored as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from dinobench.errors import UserError
from dinobench.metrics.classification import Truth
from dinobench.models.checkpoint import read_checkpoint
from dinobench.training.linear_classifiers import FeatureLayout
from dinobench.types import Backbone, Context, FeatureRequest, ImageClassification, Result


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
        "label": Truth.of(data, rows).names(data.classes),
        "prediction": [data.classes[i] for i in predicted],
        **{name: column.numpy() for name, column in right.items()},
    }
    values = {name: 100 * float(column.double().mean()) for name, column in right.items()}
    return Result(values, pd.DataFrame(items), notes=notes)


def evaluate_released(
    backbone: Backbone,
    data: ImageClassification,
    request: FeatureRequest,
    layout: FeatureLayout,
    path: str,
    interleaved: bool,
    ctx: Context,
) -> Result:
    """Score a trained head from its file on the test images. Raises UserError when it does not fit."""
    raw = read_checkpoint(path)
    matrices = [n for n, t in raw.tensors.items() if n.endswith("weight") and t.ndim == 2]
    if len(matrices) != 1:
        raise UserError(f"{path}: {len(matrices)} matrices in it, a linear head has one; give the head's own file")
    weight = raw.tensors[matrices[0]].float()
    bias = raw.tensors.get(matrices[0].removesuffix("weight") + "bias", torch.zeros(len(weight))).float()
    if tuple(weight.shape) != (len(data.classes), layout.width):
        raise UserError(
            f"{path}: a head of {weight.shape[0]} classes on {weight.shape[1]} columns; {data.name} has "
            f"{len(data.classes)} classes, and blocks={layout.blocks} with mean_patch="
            f"{'on' if layout.mean_patch else 'off'} of {backbone.info.name} give {layout.width} columns; "
            "set blocks and mean_patch to what it was trained on"
        )
    if interleaved:
        weight = torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)
    test = ctx.features(backbone, data.test, request)
    scores = layout.join(test, slice(None)) @ weight.T + bias
    truth = Truth.of(data, test.kept)
    notes = [f"head {path}, sha256 {raw.sha256}"]
    return classification_result(data, test.kept, truth.chosen(scores), truth.ranks(scores), {}, notes)
