"""Linear classifiers on frozen features, many trained at once on one forward pass.

Heads that read the same columns are one matrix product, so a grid of learning rates costs little more than one head.
Where a batch is no smaller than the data, every step sees every image, some of them more than once: then an image is
computed once and counted, and where there are fewer images than twice the columns, what moves are the images' shares
in the weights, at half the products. Several processes have heads of their own each, trained on the same features.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from dinobench import lazy
from dinobench.types import Backbone, Features

with lazy.imports():
    import torch

    from dinobench.distributed import gather_rows, owners
    from dinobench.metrics.classification import Truth, answer_rank
    from dinobench.training.step_values import to_device

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
            if isinstance(index, slice):
                return self._kept[index]
            return self._kept.index_select(0, to_device(torch.from_numpy(index), self._device))
        return to_device(self._layout.join(self._features, self._rows[index]), self._device)


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

    They are those of one process, it may be none: `members` is where they stand among all of its own, `within` among
    all that read these columns. They come last so that the softmax over classes runs over long contiguous rows.
    """

    columns: slice
    members: slice
    within: slice
    rate: torch.Tensor  # (H,)
    weight: torch.Tensor
    bias: torch.Tensor
    velocity: torch.Tensor
    bias_velocity: torch.Tensor

    #: What training changes.
    state = ("weight", "bias", "velocity", "bias_velocity")

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width) -> (n, C, H)."""
        return torch.addmm(self.bias.flatten(), x[:, self.columns], self.weight.flatten(1)).view(-1, *self.bias.shape)

    train_scores = scores

    def descend(self, x: torch.Tensor, gradient: torch.Tensor, factor: float, momentum: float, decay: float) -> None:
        """Step against the gradient (B, C, H) of the scores of x (B, width)."""
        self.velocity.flatten(1).addmm_(x[:, self.columns].T, gradient.flatten(1), beta=momentum)
        if decay:
            self.velocity.add_(self.weight, alpha=decay)
        self.weight.addcmul_(self.velocity, self.rate, value=-factor)
        self._descend_bias(gradient, factor, momentum)

    def _descend_bias(self, gradient: torch.Tensor, factor: float, momentum: float) -> None:
        self.bias_velocity.mul_(momentum).add_(gradient.sum(0))
        self.bias.addcmul_(self.bias_velocity, self.rate, value=-factor)


class _Shares(_Group):
    """The same trained on all of x (n, width) in every step: the weights are their start plus xᵀ shares.

    Every gradient of theirs lies in the span of x's rows, hence so does what SGD without weight decay adds to them.
    `shares` and `pace`, their velocity, are (n, C, H), and the scores of x are those at the start plus x xᵀ shares.
    """

    state = ("shares", "bias", "pace", "bias_velocity")

    def __init__(self, group: _Group, x: torch.Tensor) -> None:
        super().__init__(**{**vars(group), "velocity": group.velocity.new_zeros(0)})
        self.x, self.start = x[:, self.columns], group.weight
        self.products = self.x @ self.x.T
        self.first = self.x @ self.start.flatten(1)
        self.shares = x.new_zeros(len(x), *self.bias.shape)
        self.pace = torch.zeros_like(self.shares)

    def train_scores(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C, H) of all of x."""
        moved = torch.addmm(self.first, self.products, self.shares.flatten(1)).view_as(self.shares)
        return moved.add_(self.bias)

    def descend(self, x: torch.Tensor, gradient: torch.Tensor, factor: float, momentum: float, decay: float) -> None:
        self.pace.mul_(momentum).add_(gradient)
        self.shares.addcmul_(self.pace, self.rate, value=-factor)
        self._descend_bias(gradient, factor, momentum)

    def settle(self) -> None:
        """Bring `weight` to where the shares are."""
        self.weight = torch.addmm(self.start.flatten(1), self.x.T, self.shares.flatten(1)).view_as(self.start)


def shares_are_cheaper(images: int, columns: int) -> bool:
    """Whether a step on all images is less work in shares: one product of images x images, not two with columns.

    >>> shares_are_cheaper(900, 768), shares_are_cheaper(900, 384)
    (True, False)
    """
    return images < 2 * columns


class LinearClassifiers:
    """H linear classifiers trained together by SGD with momentum on cross-entropy; all tensors float32 on `device`.

    Weights are drawn from N(0, `std`), biases 0. Classifiers of different rates on the same columns start alike, so
    that each learns the same alone or among others. `scale` multiplies every rate (total batch / 256). `specs` are
    kept in the order of what they read. `whole` (n, width) is given where every step is on all of it.

    Of several `processes` each trains and scores h of the H, its own; all of them take every step and come to
    `of_all`, `evaluate`, `predict` and `state` together.
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
        whole: torch.Tensor | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.layout, self.classes = layout, classes
        self.processes, self._rank = processes, rank
        self.momentum, self.weight_decay = momentum, weight_decay
        self.specs: list[ClassifierSpec] = sorted(specs, key=lambda s: (s.blocks, s.mean_patch))
        kinds = [(s.blocks, s.mean_patch) for s in self.specs]
        self._owner = owners([b + m for b, m in kinds], kinds, processes)
        self._groups: list[_Group] = []
        self._widest = 0  # heads of a group, whoever has them
        first = begin = 0
        for (blocks, mean_patch), heads in groupby(self.specs, key=lambda s: (s.blocks, s.mean_patch)):
            members = list(heads)
            own_heads = np.flatnonzero(self._owner[begin : begin + len(members)] == rank)
            start = int(own_heads[0]) if len(own_heads) else 0
            within = slice(start, start + len(own_heads))
            begin, self._widest = begin + len(members), max(self._widest, len(members))
            rates = torch.tensor([scale * s.rate for s in members[within]], dtype=torch.float32)
            columns = layout.columns(blocks, mean_patch)
            shape = columns.stop - columns.start, classes, len(rates)
            own = zlib.crc32(f"{seed} {blocks} {mean_patch}".encode())  # of this group, whatever others there are
            drawn = torch.randn(*shape[:2], 1, generator=torch.Generator().manual_seed(own)) * std
            group = _Group(
                columns, slice(first, first + len(rates)), within, rates.to(device),
                drawn.expand(shape).contiguous().to(device), torch.zeros(shape[1:], device=device),
                torch.zeros(shape, device=device), torch.zeros(shape[1:], device=device),
            )  # fmt: skip
            cheaper = whole is not None and shares_are_cheaper(len(whole), shape[0]) and not weight_decay
            self._groups.append(_Shares(group, whole) if whole is not None and cheaper else group)
            first += len(rates)
        self._own_groups = [group for group in self._groups if len(group.rate)]
        #: Step at which an own classifier's loss or weights stopped being finite, -1 as long as it converges; (h,).
        self.diverged_at = torch.full((first,), -1, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return len(self.specs)

    def of_all(self, own: torch.Tensor) -> torch.Tensor:
        """What each process knows of its own (h, ...) -> of all (H, ...), in the order of `specs`, on every process."""
        if self.processes == 1:
            return own
        gathered = gather_rows(own, np.bincount(self._owner, minlength=self.processes).tolist())
        places = np.argsort(np.argsort(self._owner, kind="stable"))
        return gathered.index_select(0, to_device(torch.from_numpy(places), own.device))

    def step(
        self, x: torch.Tensor, labels: torch.Tensor, factor: float, index: int, counts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One update of the own classifiers on x (B, width), labels (B,): returns their losses (h,).

        `factor` is the schedule's; `index` counts steps and is kept for a classifier that diverges. Such a one needs
        no clearing away: its numbers stay in its own columns of every product. `counts` (B,) float32 is how often each
        image stands in the batch, once by default.
        """
        losses = torch.empty(len(self.diverged_at), device=x.device)
        own = torch.arange(len(x), device=x.device) * self.classes + labels  # the true class in rows of (B x C, H)
        shares = None if counts is None else counts / counts.sum()
        for group in self._own_groups:
            gradient = torch.softmax(group.train_scores(x), dim=1)  # (B, C, H)
            # The smallest normal number keeps the loss of one that is certain and wrong large instead of infinite.
            by_class = gradient.view(-1, gradient.shape[2])
            true = by_class.index_select(0, own)
            logs = true.clamp_min(torch.finfo(torch.float32).tiny).log()
            losses[group.members] = -logs.mean(0) if shares is None else -(shares @ logs)
            by_class.index_put_((own,), true - 1)
            if shares is None:
                gradient /= len(x)
            else:
                gradient *= shares[:, None, None]
            group.descend(x, gradient, factor, self.momentum, self.weight_decay)
        self._mark_diverged(~losses.isfinite(), index)
        return losses

    def settle(self) -> None:
        """Bring the weights to where the training is; what scores other images than the step's has to come after it."""
        for group in self._own_groups:
            if isinstance(group, _Shares):
                group.settle()

    def check(self, index: int) -> None:
        """Mark as diverged, at step `index`, the own classifiers whose weights are not finite."""
        self.settle()
        finite = [g.weight.isfinite().all(0).all(0) & g.bias.isfinite().all(0) for g in self._groups]
        self._mark_diverged(~torch.cat(finite), index)

    def _mark_diverged(self, diverged: torch.Tensor, index: int) -> None:
        self.diverged_at.masked_fill_(diverged & (self.diverged_at < 0), index)

    def scores(self, x: torch.Tensor, member: int) -> torch.Tensor:
        """(n, width) -> (n, C) of one classifier of all, where this process has it."""
        own = int((self._owner[:member] == self._owner[member]).sum())  # its place among those of its process
        group = next(g for g in self._own_groups if g.members.start <= own < g.members.stop)
        at = own - group.members.start
        return torch.addmm(group.bias[:, at], x[:, group.columns], group.weight[:, :, at])

    def evaluate(self, rows: FeatureRows, truth: Truth | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All of them on labelled rows: place (n, H) int16 of the true class (0 is right), mean loss (H,), on the CPU.

        `truth` may be labels (n,). Of several right classes the loss is that of the first. Equal scores are ordered by
        class index, as by `dinobench.metrics.classification.label_rank`.
        """
        device = self.diverged_at.device
        ranks = torch.empty(len(rows), len(self.diverged_at), dtype=torch.int16, device=device)
        # The Apple GPU has no float64: there the parts' sums are added up on the host.
        sums = torch.zeros(len(self.diverged_at), dtype=torch.float64, device="cpu" if device.type == "mps" else device)
        truth = (truth if isinstance(truth, Truth) else Truth(truth)).to(device)
        for part, x in self._chunks(rows) if self._own_groups else ():
            answers = truth.answers[part]
            first = answers.view(len(answers), -1)[:, :1, None]
            for group in self._own_groups:
                scores = truth.open(group.scores(x))
                own = scores.gather(1, first.expand(-1, 1, scores.shape[2]))
                ranks[part, group.members] = answer_rank(scores, answers).short()
                sums[group.members] += (scores.logsumexp(1) - own[:, 0]).sum(0).to(sums.device).double()
        return self.of_all(ranks.T).T.cpu(), self.of_all(sums).cpu() / max(len(rows), 1)

    def predict(self, rows: FeatureRows, member: int, truth: Truth) -> torch.Tensor:
        """The class (n,) that one classifier of all chooses, of equally good ones the first; on the CPU."""
        truth = truth.to(self.diverged_at.device)
        mine = self._owner[member] == self._rank
        chosen = [truth.chosen(self.scores(x, member)) for _, x in self._chunks(rows)] if mine else []
        own = torch.cat(chosen) if mine else truth.answers.new_zeros(0)
        return (gather_rows(own) if self.processes > 1 else own).cpu()

    def _chunks(self, rows: FeatureRows) -> Iterator[tuple[slice, torch.Tensor]]:
        size = max(1, SCORES // (self.classes * self._widest))
        for start in range(0, len(rows), size):
            part = slice(start, min(start + size, len(rows)))
            yield part, rows[part]

    def state(self) -> dict[str, Any]:
        """Everything that training changes, of all classifiers: the same from any number of processes."""

        def of_group(own: torch.Tensor) -> torch.Tensor:
            # To the host one by one: together they would fill a device that has room for its own share.
            return gather_rows(own.movedim(-1, 0)).movedim(0, -1).cpu() if self.processes > 1 else own

        groups = [{n: of_group(getattr(g, n)) for n in g.state} for g in self._groups]
        return {"diverged_at": self.of_all(self.diverged_at), "groups": groups}

    def restore(self, state: dict[str, Any]) -> bool:
        """Take back what `state` gave, of classifiers of the same specs; False for one of another way of training."""
        if [set(g.state) for g in self._groups] != [set(saved) for saved in state["groups"]]:
            return False
        self.diverged_at.copy_(state["diverged_at"].cpu()[torch.from_numpy(self._owner == self._rank)])
        for group, saved in zip(self._groups, state["groups"], strict=True):
            for name, tensor in saved.items():
                getattr(group, name).copy_(tensor[..., group.within])
        self.settle()
        return True
