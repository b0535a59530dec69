"""Logistic regression on frozen features, on all of train or on a few of its images.

(Oquab et al. 2023, arXiv 2304.07193, whose evaluation `dinov2` reproduces: the strength of the regularisation is chosen
on a part of train that is held out, and the regression fitted anew on all of it.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input
from dinobench.errors import UserError
from dinobench.types import (
    Backbone,
    Context,
    FeatureRequest,
    Features,
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
    from torch.nn import functional as F

    from dinobench.algorithms.chosen_strength import accuracy, choose_and_fit, mean_precision
    from dinobench.algorithms.logistic_regression import Fit
    from dinobench.algorithms.several_result import several_result
    from dinobench.data.subsets import draw_digest, hold_out, low_shot
    from dinobench.metrics.classification import Truth

DINOV2 = "facebookresearch/dinov2, dinov2/eval/log_regression.py"
#: Rows that are normalised at once.
ROWS = 65_536


@dataclass(frozen=True)
class Config:
    """What decides a logistic regression score."""

    c_min: float = setting(1e-6, "smallest C, the inverse of the L2 regularisation", DINOV2)
    c_max: float = setting(1e5, "largest C", DINOV2)
    c_count: int = setting(45, "values of C, spaced evenly in their logarithm; 1 is c_min and chooses nothing", DINOV2)
    holdout: float = setting(0.1, "share of each train class that C is chosen on, before all is fitted", DINOV2)
    holdout_seed: int = setting(0, "seed of the stratified draw of the held-out images", "ours")
    choose_on: Literal["drawn", "val"] = setting(
        "drawn",
        "C is chosen on images drawn from train, or on the set's validation images if it has any",
        DINOV2,
        added=True,
    )
    difficult: Literal["ignored", "absent", "shown"] = setting(
        "ignored",
        "what a class is of which an image shows difficult objects only, where images may show several classes: the "
        "image does not count for it, or does not show it, or shows it",
        "Everingham et al. 2010 (IJCV 88); DINOv2's choice is not published",
        added=True,
    )
    max_iterations: int = setting(1000, "most iterations of L-BFGS for each C", DINOV2)
    tolerance: float = setting(1e-12, "largest gradient of the mean loss at which a fit ends", DINOV2)
    normalise: bool = setting(True, "whether features are brought to length 1", DINOV2)
    fraction: float = setting(1.0, "share of each train class to learn from, drawn anew in every try", DINOV2)
    n_per_class: int = setting(
        0, "train images per class in place of a fraction, drawn anew in every try; 0 is off", DINOV2
    )
    tries: int = setting(1, "draws to average over; the seed of a draw is its number", DINOV2)
    resize: int = setting(256, "shorter side of the image in pixels before the crop", DINOV2)
    crop: int = setting(224, "side of the centre crop in pixels", DINOV2)
    interpolation: Literal["bicubic", "bilinear"] = setting("bicubic", "interpolation of the resize, by PIL", DINOV2)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if not 0 < self.c_min <= self.c_max or self.c_count < 1:
            raise ValueError("0 < c_min <= c_max, and c_count is 1 or more")
        if not 0 < self.holdout < 1 or not 0 < self.fraction <= 1:
            raise ValueError("holdout is between 0 and 1, fraction above 0 and at most 1")
        if self.n_per_class < 0 or self.tries < 1 or self.max_iterations < 1 or self.tolerance < 0:
            raise ValueError("n_per_class and tolerance are 0 or more, tries and max_iterations 1 or more")
        if self.n_per_class and self.fraction < 1:
            raise ValueError("n_per_class and fraction both say how many images to draw: give one of them")
        if self.choose_on == "val" and self.low_shot:
            raise ValueError("choose_on=val is of all train images, not of a few: leave n_per_class and fraction")
        if self.tries > 1 and not self.low_shot:
            raise ValueError("several tries need n_per_class or fraction: with all train images every try is the same")

    @property
    def low_shot(self) -> bool:
        return bool(self.n_per_class) or self.fraction < 1

    def strengths(self) -> list[float]:
        return np.geomspace(self.c_min, self.c_max, self.c_count).tolist() if self.c_count > 1 else [self.c_min]

    def request(self) -> FeatureRequest:
        own = self.input
        return FeatureRequest(ImageTransform(self.resize, self.crop, self.interpolation, own.mean, own.std))


name = "logreg"
version = 1
summary = "logistic regression on frozen features, of all train images or of a few"
data = "classification"
requires = frozenset({"features"})
other_tests = True
several_classes = True
profiles = {
    "dinov2": Config(),
    "lowshot1": Config(fraction=0.01, tries=5),
    "lowshot10": Config(fraction=0.1, tries=5),
    "nshot": Config(n_per_class=10, tries=5),
    "transfer": Config(choose_on="val"),
}


def metrics(config: Config) -> tuple[Metric, ...]:
    """top-1 and top-5; with several tries their means and standard deviations; of images with several classes mAP."""
    spread = [Metric(f"top{n}_std", unit="points", higher_is_better=False) for n in (1, 5)]
    several = Metric("mAP"), Metric("mAP_dinov3")
    return Metric("top1", primary=True), Metric("top5"), *(spread if config.tries > 1 else several)


def requests(data: ImageClassification, config: Config, backbone: Backbone) -> list[tuple[ImageSplit, FeatureRequest]]:
    """What `run` will ask the feature service for."""
    return [(data.train, config.request()), (data.test, config.request())]


def run(backbone: Backbone, data: ImageClassification, config: Config, ctx: Context) -> Result:
    """Choose C, fit and score the test images, once per try; the tries are shared among the processes."""
    if data.verdicts is not None and config.low_shot:
        raise UserError(f"{data.name}: its images show several classes and cannot be drawn by class; use all of them")
    train = ctx.features(backbone, data.train, config.request())
    test = ctx.features(backbone, data.test, config.request())
    learnt, asked = (data.train.labels, data.test.labels) if data.verdicts is None else _meant(data.verdicts, config)
    labels, truth = learnt[train.kept], Truth.of(data, test.kept) if data.verdicts is None else None
    x_test = _rows(test, slice(None), config, ctx)

    attempts = range(config.tries)
    val = None if data.val is None or config.choose_on == "drawn" else np.isin(train.kept, data.val)
    own = [_attempt(attempt, train, labels, val, (x_test, truth), len(data.classes), config, ctx)
            for attempt in attempts[ctx.shard(config.tries)]]  # fmt: skip
    none = torch.zeros(0, dtype=torch.float64) if truth is None else torch.zeros(0, 2, len(truth), dtype=torch.int64)
    scored = ctx.gather(torch.stack([s for s, _ in own]) if own else none)  # (tries, 2, n), or scores
    fits = ctx.gather(torch.tensor([fit for _, fit in own], dtype=torch.float64).reshape(len(own), 4))
    drawn = [_draw(labels, attempt, config) for attempt in attempts] if config.low_shot else []
    notes, ids = _notes(config, fits, drawn, val), [data.test.ids[int(i)] for i in test.kept]
    if truth is None:
        result = several_result(scored[0].numpy(), asked[test.kept], ids, data.classes, ctx.seed)
        result.notes = notes + result.notes
        return result

    predicted, ranks = scored.unbind(1)
    frame: dict[str, Any] = {
        "id": ids,
        "label": truth.names(data.classes),
        "prediction": [data.classes[i] for i in predicted[0].tolist()],
    }
    values: dict[str, float] = {}
    for n in (1, 5):
        right = (ranks < n).double()  # (tries, n)
        frame[f"top{n}"] = right.mean(0).numpy() if config.tries > 1 else right[0].bool().numpy()
        values[f"top{n}"] = 100 * float(right.mean())
        if config.tries > 1:
            values[f"top{n}_std"] = 100 * float(np.std(right.mean(1).numpy()))
    return Result(values, pd.DataFrame(frame), notes=notes)


def _meant(verdicts: tuple[np.ndarray, np.ndarray], config: Config) -> list[np.ndarray]:
    """Verdicts (n, classes) of train and of test, with what difficult objects are taken for."""
    hard = {"ignored": 0, "absent": -1, "shown": 1}[config.difficult]
    return [np.where(part == 0, hard, part) for part in verdicts]


def _attempt(
    attempt: int, train: Features, labels: np.ndarray, val: np.ndarray | None,
    test: tuple[torch.Tensor, Truth | None], classes: int, config: Config, ctx: Context,
) -> tuple[torch.Tensor, list[float]]:  # fmt: skip
    """Of the test images the classes chosen and the places of the true ones (2, n), or where they may show several
    classes all scores (n, classes), on the CPU; and C, the value on the held-out images, iterations, fits that did not
    end."""
    drawn, several = _draw(labels, attempt, config), labels.ndim == 2
    x = _rows(train, drawn, config, ctx)
    y = torch.from_numpy(labels[drawn]).to(x if several else x.device)

    def parts() -> tuple[np.ndarray, np.ndarray]:
        if val is not None:
            return np.flatnonzero(~val), np.flatnonzero(val)
        return hold_out(np.zeros(len(y), int) if several else labels[drawn], config.holdout, config.holdout_seed)

    def watched(path: Iterable[Fit]) -> Iterator[Fit]:
        which = f" (try {attempt + 1} of {config.tries})" if config.tries > 1 else ""
        return ctx.progress(path, f"Logistic regression, values of C{which}", config.c_count)

    chosen = choose_and_fit(
        x, y, classes, config.strengths(), parts, partial(mean_precision if several else accuracy, x=x, y=y), watched,
        tolerance=config.tolerance, max_iterations=config.max_iterations,
    )  # fmt: skip
    x_test, truth = test[0], None if test[1] is None else test[1].to(test[0].device)
    scored = [torch.stack([truth.chosen(s), truth[part].ranks(s)], dim=1) if truth else s
              for part, s in chosen.fit.scored(x_test)]  # fmt: skip
    told = torch.cat(scored).cpu()
    return told if truth is None else told.T, [chosen.fit.c, 100 * chosen.best, chosen.iterations, chosen.unfinished]


def _rows(features: Features, rows: Any, config: Config, ctx: Context) -> torch.Tensor:
    """CLS features (n, D) float64 on the device, which are never there twice: of ImageNet they are 4 GB."""
    x = torch.from_numpy(features.cls[rows, -1].astype(np.float64))
    if ctx.device.type != "mps":  # which has no double precision
        x = x.to(ctx.device)
    for part in x.split(ROWS) if config.normalise else ():
        F.normalize(part, dim=1, out=part)
    return x


def _draw(labels: np.ndarray, attempt: int, config: Config) -> np.ndarray:
    if not config.low_shot:
        return np.arange(len(labels))
    return low_shot(labels, attempt, fraction=config.fraction, n_per_class=config.n_per_class)


def _notes(config: Config, fits: torch.Tensor, drawn: list[np.ndarray], val: np.ndarray | None) -> list[str]:
    """What was drawn and chosen in every try, and on what, where the set's own images were asked for."""
    tries = []
    for attempt, (c, value, iterations, _) in enumerate(fits.tolist()):
        draw = f"seed {attempt}: {len(drawn[attempt])} images (draw {draw_digest(drawn[attempt])}), " if drawn else ""
        chosen = f"C = {c:.4g}" + (f", {value:.2f} % on held-out images" if config.c_count > 1 else "")
        tries.append(f"{draw}{chosen}, {iterations:.0f} iterations in all")
    unfinished = int(fits[:, 3].sum())
    notes = ["; ".join(tries)]
    notes += [f"{unfinished} fits had not converged after {config.max_iterations} iterations"] if unfinished else []
    if config.choose_on == "val" and config.c_count > 1:
        notes.append("held out: drawn from train, as the set has no validation images" if val is None
                     else f"held out: the set's {int(val.sum()):,} validation images")  # fmt: skip
    return notes
