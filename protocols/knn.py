"""Weighted k-nearest-neighbour classification of frozen features.

Train images vote for their class with the weight exp(cosine / temperature). (Wu et al. 2018, arXiv 1805.01978,
section 3.4; Caron et al. 2021, arXiv 2104.14294, section 4.1, whose evaluation `dino2021` reproduces; Oquab et al.
2023, arXiv 2304.07193, whose evaluation `dinov2` reproduces.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input
from dinobench.types import (
    Backbone,
    Context,
    FeatureRequest,
    ImageClassification,
    ImageSplit,
    Metric,
    Result,
    setting,
)

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch

    from dinobench.algorithms.nearest_neighbours import search
    from dinobench.metrics.classification import Truth, answer_rank, best_answer, first_argmax

#: Votes in float32 at a time: 4 MB, which stay in a cache.
VOTES_AT_ONCE = 2**20
#: Stands after all classes: the largest int64.
ABSENT = 2**63 - 1
DINO = "facebookresearch/dino, eval_knn.py"
DINOV2 = "facebookresearch/dinov2, dinov2/eval/knn.py"


@dataclass(frozen=True)
class Config:
    """What decides a k-NN score."""

    k: tuple[int, ...] = setting((10, 20, 100, 200), "numbers of neighbours that vote, all from one search", DINO)
    temperature: float = setting(0.07, "temperature T of the weights exp(cosine / T)", DINO)
    weighting: Literal["exp", "softmax"] = setting(
        "exp", "votes as they are, or normalised over the neighbours; the ranking of classes is the same", DINO
    )
    n_per_class: int = setting(0, "train images per class, drawn anew in every try; 0 takes all", DINOV2)
    tries: int = setting(1, "draws to average over when n_per_class is set; the seed of a draw is its number", DINOV2)
    resize: int = setting(256, "shorter side of the image in pixels before the crop", DINO)
    crop: int = setting(224, "side of the centre crop in pixels", DINO)
    interpolation: Literal["bicubic", "bilinear"] = setting("bicubic", "interpolation of the resize, by PIL", DINO)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1 or len(set(self.k)) < len(self.k):
            raise ValueError(f"k = {self.k}: numbers of neighbours are different whole numbers from 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")
        if self.n_per_class < 0 or self.tries < 1:
            raise ValueError("n_per_class is 0 (all) or more, tries 1 or more")
        if self.tries > 1 and not self.n_per_class:
            raise ValueError("several tries need n_per_class: with all train images every try is the same")

    def neighbours(self) -> tuple[int, ...]:
        """The numbers of neighbours that are scored: in few-shot tries n_per_class itself and those of `k` below it.

        >>> Config(n_per_class=15).neighbours(), Config(k=(1, 5)).neighbours()
        ((10, 15), (1, 5))
        """
        # dinov2's eval_knn adds n to its list and drops what is above: more than n of a class never vote.
        few = self.n_per_class
        return tuple(sorted({k for k in self.k if k < few} | {few})) if few else self.k

    def transform(self) -> ImageTransform:
        return ImageTransform(self.resize, self.crop, self.interpolation, self.input.mean, self.input.std)


name = "knn"
version = 1
#: Few-shot tries scored k above n_per_class in version 1; scores of all train images are as they were.
FEW_SHOT_VERSION = 2
summary = "weighted k-nearest-neighbour classification of frozen features"
data = "classification"
requires = frozenset({"features"})
other_tests = True
profiles = {
    "dino2021": Config(),
    "dinov2": Config(weighting="softmax"),
    "dinov2-fewshot": Config(weighting="softmax", n_per_class=10, tries=5),
}


def version_of(config: Config) -> int:
    """The version of the numbers that a configuration gives."""
    return FEW_SHOT_VERSION if config.n_per_class else version


def metrics(config: Config) -> tuple[Metric, ...]:
    """top-1 and top-5 per k, the paper's k = 20 first in rank; with several tries their standard deviations too."""
    scored = config.neighbours()
    headline = 20 if 20 in scored else min(scored)
    means = [Metric(f"top{n}@k{k}", primary=(n == 1 and k == headline)) for k in scored for n in (1, 5)]
    spread = [Metric(f"top{n}_std@k{k}", unit="points", higher_is_better=False) for k in scored for n in (1, 5)]
    return tuple(means + (spread if config.tries > 1 else []))


def requests(data: ImageClassification, config: Config, backbone: Backbone) -> list[tuple[ImageSplit, FeatureRequest]]:
    """What `run` will ask the feature service for."""
    request = FeatureRequest(config.transform())
    return [(data.train, request), (data.test, request)]


def run(backbone: Backbone, data: ImageClassification, config: Config, ctx: Context) -> Result:
    """Score the test images by the votes of their nearest train images."""
    request = FeatureRequest(config.transform())
    train = ctx.features(backbone, data.train, request)
    test = ctx.features(backbone, data.test, request)
    train_labels = torch.from_numpy(data.train.labels[train.kept])
    truth = Truth.of(data, test.kept)

    scored = config.neighbours()
    tries = []
    for attempt in range(config.tries):
        drawn = _draw(train_labels, config.n_per_class, attempt) if config.n_per_class else None
        bank = train.cls[:, -1] if drawn is None else train.cls[:, -1][drawn.numpy()]
        labels = train_labels if drawn is None else train_labels[drawn]
        part = ctx.shard(len(truth))
        similarity, index = search(
            test.cls[part, -1], bank, min(max(scored), len(bank)),
            normalise=True, device=ctx.device, progress=ctx.progress,
        )  # fmt: skip
        votes = vote(similarity, labels[index], truth.answers[part], len(data.classes), config, truth.among)
        tries.append(ctx.gather(votes))
    ranks = torch.stack(tries)[..., 0]  # (tries, n, k)
    predictions = torch.stack(tries)[0, ..., 1]  # (n, k) of the first try

    frame: dict[str, Any] = {
        "id": [data.test.ids[i] for i in test.kept],
        "label": truth.names(data.classes),
    }
    values: dict[str, float] = {}
    for column, k in enumerate(scored):
        frame[f"prediction@k{k}"] = [data.classes[i] for i in predictions[:, column]]
        for n in (1, 5):
            right = (ranks[:, :, column] < min(n, k)).double()
            frame[f"top{n}@k{k}"] = right.mean(0).numpy() if config.tries > 1 else right[0].bool().numpy()
            values[f"top{n}@k{k}"] = 100 * float(right.mean())
            if config.tries > 1:
                values[f"top{n}_std@k{k}"] = 100 * float(np.std(right.mean(1).numpy()))
    smaller = [k for k in scored if k > len(bank)]
    notes = [f"k = {', '.join(map(str, smaller))}: only {len(bank)} train images, all of them vote"] if smaller else []
    if above := [k for k in config.k if config.n_per_class and k > config.n_per_class]:
        drawn_of_each = f"{config.n_per_class} images of each class are drawn"
        notes.append(f"k = {', '.join(map(str, above))}: not scored, as {drawn_of_each}")
    return Result(values, pd.DataFrame(frame), notes=notes)


def vote(
    similarity: torch.Tensor,
    neighbours: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    config: Config,
    among: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cosines (n, m) in descending order and classes (n, m) of m neighbours, true classes -> (n, scored k, 2).

    The last dimension holds the rank of the true class (0 is right) and the predicted class. The weight of the
    nearest neighbour is 1: scaling all votes of an image changes no ranking and keeps exp from overflowing. Where only
    the classes `among` may be chosen the others have no votes. `labels` are the answers of a `Truth`.
    """
    if among is not None:  # one class more, after all others, stands for those that have no votes
        place = torch.full((classes,), len(among))
        place[among] = torch.arange(len(among))
        neighbours, classes = place[neighbours], len(among) + 1
    scored = config.neighbours()
    order = sorted(range(len(scored)), key=lambda i: scored[i])
    out = torch.empty(len(labels), len(scored), 2, dtype=torch.int64)
    used = neighbours.shape[1]
    step = max(1, VOTES_AT_ONCE // max(min(classes, used), 1))
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        near, voters, truth = similarity[rows], neighbours[rows], labels[rows]
        weights = torch.exp((near - near[:, :1]) / config.temperature)
        if config.weighting == "softmax":
            weights = weights / weights.sum(dim=1, keepdim=True)
        if among is not None:
            weights = weights.masked_fill(voters == len(among), 0)
        names = None
        if classes > used:  # most classes have no voter: count those that have, in a table as wide as there are voters
            names, voters = _present(voters)
        votes = torch.zeros(len(near), min(classes, used))
        done = 0
        for i in order:  # the neighbours of a smaller k are the first of a larger one
            k = scored[i]
            votes.scatter_add_(1, voters[:, done:k], weights[:, done:k])
            done = k
            if names is None:
                out[rows, i, 0] = answer_rank(votes, truth)
                out[rows, i, 1] = first_argmax(votes)
            else:
                out[rows, i, 0] = _sparse_rank(votes, names, truth)
                # Where nobody has a vote the first class is as good as any.
                chosen = names.gather(1, first_argmax(votes)[:, None])[:, 0]
                out[rows, i, 1] = torch.where(votes.amax(dim=1) > 0, chosen, 0)
    if among is not None:
        out[..., 1] = among[out[..., 1]]
    return out


def _present(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes (n, m) -> the distinct ones of every row ascending (n, m), the rest `ABSENT`; and each one's column."""
    ascending, where = labels.sort(dim=1)
    column = torch.zeros_like(ascending)
    column[:, 1:] = (ascending[:, 1:] != ascending[:, :-1]).cumsum(dim=1)
    names = torch.full_like(labels, ABSENT).scatter_(1, column, ascending)
    return names, torch.empty_like(column).scatter_(1, where, column)


def _sparse_rank(votes: torch.Tensor, names: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`answer_rank` of votes (n, m) for the classes `names` (n, m), where all other classes have none."""
    if labels.ndim == 2:
        each = torch.where(names[:, None] == labels[..., None], votes[:, None], 0).sum(dim=2)
        labels = best_answer(each, labels)
    true = names == labels[:, None]
    own = torch.where(true, votes, 0).sum(dim=1, keepdim=True)
    lower = names < labels[:, None]
    rank = ((votes > own) | ((votes == own) & lower)).sum(dim=1)
    silent = labels - lower.sum(dim=1)  # classes before the true one that have no voter
    return torch.where(own[:, 0] > 0, rank, rank + silent)


def _draw(labels: torch.Tensor, n_per_class: int, attempt: int) -> torch.Tensor:
    """The train indices of one few-shot try: per class, in order, the first n of a permutation seeded by the try."""
    generator = torch.Generator().manual_seed(attempt)
    drawn = []
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        drawn.append(members[torch.randperm(len(members), generator=generator)[:n_per_class]])
    return torch.cat(drawn)
