"""A logistic regression whose regularisation is chosen on held-out images, and which is then fitted to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from dinobench.algorithms.logistic_regression import Fit, fit_path
from dinobench.errors import UserError
from dinobench.metrics.classification import first_argmax
from dinobench.metrics.robustness import map11


class Chosen(NamedTuple):
    """The last fit; the best value on the held-out images, NaN where nothing was chosen; and how the fits went."""

    fit: Fit
    best: float
    iterations: int
    unfinished: int


def choose_and_fit(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    strengths: Sequence[float],
    parts: Callable[[], tuple[np.ndarray, np.ndarray]],
    judge: Callable[[Fit, torch.Tensor], tuple[float, float]],
    watched: Callable[[Iterable[Fit]], Iterable[Fit]] = iter,
    **settings: Any,
) -> Chosen:
    """Fit x (n, d) with y as `fit_path` takes it: at every strength on one of the `parts`, then at the best on all.

    `parts()` are rows to learn from and rows held out, asked for where there is a choice; `judge(fit, held)` is the
    value of a fit on those, of equal ones the second number decides, and of equal ones again the first strength.
    `watched` wraps the fits of the choice: a progress bar.
    """
    start, best, iterations, unfinished = None, (-1.0, 0.0), 0, 0
    if len(strengths) > 1:
        learn, held = (torch.from_numpy(part).to(x.device) for part in parts())
        for fit in watched(fit_path(x, y, classes, strengths, rows=learn, **settings)):
            candidate = judge(fit, held)
            if candidate > best:
                best, start = candidate, fit
            iterations, unfinished = iterations + fit.iterations, unfinished + (not fit.converged)
    c = start.c if start else strengths[0]
    (last,) = fit_path(x, y, classes, [c], start=start, **settings)
    value = best[0] if start else float("nan")
    return Chosen(last, value, iterations + last.iterations, unfinished + (not last.converged))


def accuracy(fit: Fit, held: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """The share of the `held` rows that is right, and minus the mean loss: of equally good ones, that of least loss."""
    right, loss = x.new_zeros(()), x.new_zeros(())
    for part, scores in fit.scored(x, held):
        true = y[held[part]]
        share = len(true) / len(held)
        right += (first_argmax(scores) == true).sum()
        loss += F.cross_entropy(scores, true) * share
    right, loss = torch.stack([right / len(held), loss]).tolist()
    return right, -loss


def mean_precision(fit: Fit, held: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Of the `held` rows, with y (n, classes) of 1, -1 and 0 as `fit_path` takes it, `map11`; nothing decides further.

    Raises UserError where none of them shows anything.
    """
    scores = torch.cat([s for _, s in fit.scored(x, held)]).cpu().numpy()
    true = y[held].cpu().numpy()
    if not (true > 0).any():
        raise UserError(f"none of the {len(held):,} images held out to choose C on shows a class; hold out more")
    return map11(scores, true > 0, true != 0), 0.0
