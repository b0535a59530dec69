"""Linear classifiers on frozen features, many trained at once on one forward pass.

Heads that read the same columns are one matrix product, so a grid of learning rates costs little more than one head.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from dinobench.types import Backbone, Features

#: Joined features are held in memory up to this many bytes; larger ones are gathered from disk batch by batch.
KEEP_BYTES = 4 << 30
#: Scores (float32) that exist at once in an evaluation: 64 MB.
SCORES = 2**24


@dataclass(frozen=True)
class FeatureLayout:
    """Columns of joined features: CLS of the last `blocks`, oldest first, then the last block's mean patch token.

    Whatever a head reads is then a run of neighbouring columns, and no head needs a copy.
    """

    blocks: int
    mean_patch: bool
    dim: int

    @property
    def width(self) -> int:
        return (self.blocks + self.mean_patch) * self.dim

    def columns(self, blocks: int, mean_patch: bool) -> slice:
        """Where the last `blocks` CLS tokens and, if wanted, the mean patch token are.

        >>> FeatureLayout(blocks=4, mean_patch=True, dim=10).columns(1, True)
        slice(30, 50, None)
        """
        return slice((self.blocks - blocks) * self.dim, (self.blocks + mean_patch) * self.dim)

    def compute(self, backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, width) float32 on the same device."""
        if self.blocks == 1 and not self.mean_patch:
            return backbone.features(x)
        layers = backbone.layers(x, self.blocks)
        parts = [cls for cls, _ in layers] + ([layers[-1][1].mean(dim=1)] if self.mean_patch else [])
        return torch.cat(parts, dim=1)

    def join(self, features: Features, rows: Any) -> torch.Tensor:
        """Extracted features of these rows -> (rows, width) float32, copied."""
        cls = features.cls[rows, -self.blocks :]
        parts = [cls.reshape(len(cls), self.blocks * self.dim)]
        if self.mean_patch:
            assert features.mean_patches is not None
            parts.append(features.mean_patches[rows, -1])
        return torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32))


class FeatureRows:
    """Rows of extracted features in a layout, on the device when they fit `keep_bytes`. `rows` are of `features`."""

    def __init__(
        self,
        features: Features,
        layout: FeatureLayout,
        rows: np.ndarray,
        device: torch.device,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._features, self._layout, self._rows, self._device = features, layout, rows, device
        small = 4 * len(rows) * layout.width <= keep_bytes
        self._kept = layout.join(features, rows).to(device) if small else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: np.ndarray | slice) -> torch.Tensor:
        """(b, width) on the device."""
        if self._kept is not None:
            # index_select is several times faster than fancy indexing on a CPU
            return self._kept[index] if isinstance(index, slice) else self._kept.index_select(0, self._tensor(index))
        return self._layout.join(self._features, self._rows[index]).to(self._device)

    def _tensor(self, index: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(index).to(self._device)


@dataclass(frozen=True)
class ClassifierSpec:
    """One linear classifier: what it reads and how fast it learns. `rate` is per 256 images of the batch."""

    blocks: int
    mean_patch: bool
    rate: float

    def __str__(self) -> str:
        return f"blocks={self.blocks} mean_patch={'on' if self.mean_patch else 'off'} lr={self.rate:g}"


@dataclass
class _Group:
    """Classifiers that read the same columns: `weight` and `velocity` (d, C, H), `bias` and its velocity (C, H).

    `members` is where they stand among all. They come last so that the softmax over classes runs over long contiguous
    rows.
    """

    columns: slice
    members: slice
    rate: torch.Tensor  # (H,)
    weight: torch.Tensor
    bias: torch.Tensor
    velocity: torch.Tensor
    bias_velocity: torch.Tensor

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width) -> (n, C, H)."""
        return torch.addmm(self.bias.flatten(), x[:, self.columns], self.weight.flatten(1)).view(-1, *self.bias.shape)


class LinearClassifiers:
    """H linear classifiers trained together by SGD with momentum on cross-entropy; all tensors float32 on `device`.

    Weights are drawn from N(0, `std`), biases 0. Classifiers of different rates on the same columns start alike, so
    that each learns the same alone or among others. `scale` multiplies every rate (total batch / 256). `specs` are
    kept in the order of what they read.
    """

    def __init__(
        self,
        layout: FeatureLayout,
        specs: Sequence[ClassifierSpec],
        classes: int,
        *,
        seed: int,
        device: torch.device,
        scale: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        std: float = 0.01,
    ) -> None:
        self.layout, self.classes = layout, classes
        self.momentum, self.weight_decay = momentum, weight_decay
        self.specs: list[ClassifierSpec] = sorted(specs, key=lambda s: (s.blocks, s.mean_patch))
        self._groups: list[_Group] = []
        first = 0
        for (blocks, mean_patch), members in groupby(self.specs, key=lambda s: (s.blocks, s.mean_patch)):
            rates = torch.tensor([scale * s.rate for s in members], dtype=torch.float32)
            columns = layout.columns(blocks, mean_patch)
            shape = columns.stop - columns.start, classes, len(rates)
            own = zlib.crc32(f"{seed} {blocks} {mean_patch}".encode())  # of this group, whatever others there are
            drawn = torch.randn(*shape[:2], 1, generator=torch.Generator().manual_seed(own)) * std
            self._groups.append(
                _Group(
                    columns, slice(first, first + len(rates)), rates.to(device),
                    drawn.expand(shape).contiguous().to(device), torch.zeros(shape[1:], device=device),
                    torch.zeros(shape, device=device), torch.zeros(shape[1:], device=device),
                )
            )  # fmt: skip
            first += len(rates)
        #: Step at which a classifier's loss or weights stopped being finite, -1 as long as it converges; (H,).
        self.diverged_at = torch.full((first,), -1, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return len(self.specs)

    def step(self, x: torch.Tensor, labels: torch.Tensor, factor: float, index: int) -> torch.Tensor:
        """One update of all classifiers on x (B, width), labels (B,): returns their losses (H,).

        `factor` is the schedule's; `index` counts steps and is kept for a classifier that diverges. Such a one needs
        no clearing away: its numbers stay in its own columns of every product.
        """
        losses = torch.empty(len(self.specs), device=x.device)
        rows = torch.arange(len(x), device=x.device)
        for group in self._groups:
            gradient = torch.softmax(group.scores(x), dim=1)  # (B, C, H)
            # The smallest normal number keeps the loss of one that is certain and wrong large instead of infinite.
            losses[group.members] = -gradient[rows, labels].clamp_min(torch.finfo(torch.float32).tiny).log().mean(0)
            gradient[rows, labels] -= 1
            gradient /= len(x)
            group.velocity.flatten(1).addmm_(x[:, group.columns].T, gradient.flatten(1), beta=self.momentum)
            group.bias_velocity.mul_(self.momentum).add_(gradient.sum(0))
            if self.weight_decay:
                group.velocity.add_(group.weight, alpha=self.weight_decay)
            group.weight.addcmul_(group.velocity, group.rate, value=-factor)
            group.bias.addcmul_(group.bias_velocity, group.rate, value=-factor)
        self._mark_diverged(~losses.isfinite(), index)
        return losses

    def check(self, index: int) -> None:
        """Mark as diverged, at step `index`, the classifiers whose weights are not finite."""
        finite = [g.weight.isfinite().all(0).all(0) & g.bias.isfinite().all(0) for g in self._groups]
        self._mark_diverged(~torch.cat(finite), index)

    def _mark_diverged(self, diverged: torch.Tensor, index: int) -> None:
        self.diverged_at.masked_fill_(diverged & (self.diverged_at < 0), index)

    def scores(self, x: torch.Tensor, member: int) -> torch.Tensor:
        """(n, width) -> (n, C) of one classifier."""
        group = next(g for g in self._groups if g.members.start <= member < g.members.stop)
        at = member - group.members.start
        return torch.addmm(group.bias[:, at], x[:, group.columns], group.weight[:, :, at])

    def evaluate(self, rows: FeatureRows, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All of them on labelled rows: place (n, H) int16 of the true class (0 is right), mean loss (H,), on the CPU.

        Equal scores are ordered by class index, as by `dinobench.metrics.classification.label_rank`.
        """
        ranks = torch.empty(len(rows), len(self), dtype=torch.int16)
        losses = torch.zeros(len(self), dtype=torch.float64)
        for part, x in self._chunks(rows):
            true = labels[part].to(x.device)
            for group in self._groups:
                scores = group.scores(x)
                own = scores.gather(1, true[:, None, None].expand(-1, 1, scores.shape[2]))
                classes = torch.arange(self.classes, device=x.device)[:, None]
                before = (scores == own) & (classes < true[:, None, None])
                ranks[part, group.members] = ((scores > own) | before).sum(1).short().cpu()
                losses[group.members] += (scores.logsumexp(1) - own[:, 0]).sum(0).double().cpu()
        return ranks, losses / max(len(rows), 1)

    def predict(self, rows: FeatureRows, member: int) -> torch.Tensor:
        """Scores (n, C) of one classifier, on the CPU."""
        return torch.cat([self.scores(x, member).cpu() for _, x in self._chunks(rows)])

    def _chunks(self, rows: FeatureRows) -> Iterator[tuple[slice, torch.Tensor]]:
        widest = max(len(g.rate) for g in self._groups)
        size = max(1, SCORES // (self.classes * widest))
        for start in range(0, len(rows), size):
            part = slice(start, min(start + size, len(rows)))
            yield part, rows[part]

    def state(self) -> dict[str, Any]:
        """Everything that training changes."""
        names = ("weight", "bias", "velocity", "bias_velocity")
        return {"diverged_at": self.diverged_at, "groups": [{n: getattr(g, n) for n in names} for g in self._groups]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave, of classifiers of the same specs."""
        self.diverged_at.copy_(state["diverged_at"])
        for group, saved in zip(self._groups, state["groups"], strict=True):
            for name, tensor in saved.items():
                getattr(group, name).copy_(tensor)
