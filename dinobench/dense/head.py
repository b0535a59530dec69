"""The linear head on patch features, and its loss.

(Oquab et al. 2023, arXiv 2304.07193, section 7.4, and facebookresearch/dinov2 `eval/segmentation/models/decode_heads/
linear_head.py`; facebookresearch/dinov3 `eval/segmentation/models/heads/linear_head.py`.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dinobench.algorithms.sliding_window import linear_weights
from dinobench.data.label_maps import IGNORED
from dinobench.dense.head_training import Recipe, StepSize

#: Deviation of the normal distribution that the weights start from (mmcv `normal_init` of both releases).
INIT_STD = 0.01
#: Scores at the labels' size that exist at once, in numbers.
AT_ONCE = 1 << 23


class SegmentationHead(nn.Module):
    """Dropout of whole channels, batch norm, a 1 x 1 convolution; weights drawn from `seed`, biases 0."""

    def __init__(self, channels: int, classes: int, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, classes, 1)
        with torch.no_grad():
            nn.init.normal_(self.conv.weight, std=INIT_STD, generator=torch.Generator().manual_seed(seed))
            self.conv.bias.zero_()  # type: ignore[union-attr]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Patch features (B, D, h, w) -> scores (B, C, h, w)."""
        return self.conv(self.norm(self.dropout(maps)))


def pixel_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Scores (B, C, h, w), labels (B, H, W) uint8 -> cross-entropy at the labels' size, averaged over *all* pixels.

    Those without a label add nothing to the sum and still count in the mean, as in both releases (mmseg's
    CrossEntropyLoss with `avg_non_ignore` False). Scores are upsampled bilinearly.
    """
    if scores.shape[2:] != labels.shape[1:]:
        scores = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(scores, labels.long(), ignore_index=IGNORED, reduction="sum") / labels.numel()


def backward(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Go back from `pixel_loss` to the parameters behind `scores`; returns the loss () float32.

    A few images at a time, and with the gradient written down: in half the time, and in an eighth of the memory of a
    batch of 16, which autograd would hold several times at full size.
    """
    with torch.no_grad():
        total, gradient = torch.zeros((), device=scores.device), torch.empty(scores.shape, device=scores.device)
        size = max(1, AT_ONCE // (scores.shape[1] * labels[0].numel()))
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            loss, gradient[part] = _loss_and_gradient(scores.detach()[part].float(), labels[part])
            total += loss
    scores.backward((gradient / labels.numel()).to(scores.dtype))
    return total / labels.numel()


def pixel_recipe(rates: np.ndarray, weight_decay: float) -> Recipe:
    """The training by `pixel_loss` whose steps have these learning rates (steps,), as both releases have it."""
    return Recipe(
        len(rates), lambda step: StepSize(float(rates[step])), lambda scores, labels, step: backward(scores, labels),
        weight_decay,
    )  # fmt: skip


def _loss_and_gradient(scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy () and its gradient (b, C, h, w)."""
    rows, columns = (linear_weights(*pair).to(scores) for pair in zip(scores.shape[2:], labels.shape[1:], strict=True))
    logs = F.log_softmax(rows @ (scores @ columns.T), dim=1)
    labelled = (labels != IGNORED)[:, None]
    index = labels.long()[:, None].masked_fill(~labelled, 0)
    loss = -(logs.gather(1, index) * labelled).sum()
    slope = logs.exp_().scatter_add_(1, index, logs.new_full((1, 1, 1, 1), -1.0).expand(index.shape)).mul_(labelled)
    return loss, rows.T @ (slope @ columns)
