"""L2-regularised logistic regression in double precision, for many strengths of regularisation in a row.

Multinomial where every image has one class; where it may show several, one regression a class, all of them together.

L-BFGS (Nocedal and Wright 2006, Numerical Optimization, algorithm 7.4) with two changes that matter: its first inverse
Hessian is that of a quadratic model at the starting point instead of a multiple of the identity, and every strength
starts from its neighbour's solution. Where the scores of all images and classes fit in memory they are kept: along a
search direction they are linear, so that an iteration costs two passes over the data however often the line search
looks. Elsewhere loss and gradient are summed up over chunks of images, always in the same order, and nothing of images
times classes exists; a second look of the line search then costs two more passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import logsigmoid

#: Pairs of steps and gradient changes that L-BFGS remembers.
MEMORY = 20
#: The loss no longer falls when it falls by less than so many rounding errors, as scikit-learn has it for lbfgs.
FLAT = 64 * torch.finfo(torch.float64).eps
#: Numbers of the largest array, images times classes or columns, up to which all scores are kept: 256 MB.
WHOLE = 2**25
#: Numbers of the largest array that exists at once where they are not: 32 MB.
CHUNK = 2**22
#: A step is good when the slope along it has shrunk to this share (the curvature condition of Wolfe).
SLOPE = 0.5


@dataclass(frozen=True)
class Fit:
    """A solution: `weight` (C, d) and `bias` (C,) float64, the loss reached and whether the stopping rule was met.

    `loss` is the mean cross-entropy + |weight|² / (2 c n): scikit-learn's objective divided by c n.
    """

    c: float
    weight: torch.Tensor
    bias: torch.Tensor
    loss: float
    iterations: int
    converged: bool

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(m, d) -> (m, C)."""
        return torch.addmm(self.bias, x, self.weight.T)

    def scored(self, x: torch.Tensor, rows: torch.Tensor | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Scores (b, C) of x (m, d), or of its `rows`, a part after the other, and where each part stands."""
        count, size = len(x) if rows is None else len(rows), max(1, WHOLE // 2 // len(self.weight))
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            yield part, self.scores(x[part] if rows is None else x[rows[part]])


def fit_path(
    x: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    strengths: Sequence[float],
    *,
    rows: torch.Tensor | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 1000,
    start: Fit | None = None,
) -> Iterator[Fit]:
    """Fit x (n, d) float64 with labels (n,) for every c of `strengths`, best given in ascending order.

    c is the inverse of the regularisation, as scikit-learn's C; biases are not regularised; with two classes there are
    still two rows of weights. Where labels are (n, classes), 1 for a class that the image shows, -1 for one that it
    does not and 0 for one that it is not asked about, each class is a regression of its own, as scikit-learn's of two
    classes. `rows` are the images to learn from, all by default: where there are many, x is not
    copied. A fit ends when no gradient of `loss` exceeds `tolerance`, when the loss is flat to rounding, or after
    `max_iterations`.

    Raises ValueError for a strength that is not above 0.
    """
    if min(strengths) <= 0:
        raise ValueError(f"strengths {min(strengths)} and the like regularise without end; they are above 0")
    count, width = len(x) if rows is None else len(rows), x.shape[1] + 1
    images: _Images = _Kept(x, labels, rows) if count * max(classes, width) <= WHOLE else _Chunks(x, labels, rows)
    weight = x.new_zeros(classes, width)
    if start is not None:
        weight = torch.cat([start.weight, start.bias[:, None]], dim=1).to(x)
    for c in strengths:
        weight, loss, iterations, converged = _minimise(images, 1 / (c * count), weight, tolerance, max_iterations)
        yield Fit(c, weight[:, :-1].clone(), weight[:, -1].clone(), loss, iterations, converged)


def _extended(x: torch.Tensor) -> torch.Tensor:
    """(b, d) -> (b, d + 1): a constant column for the biases."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def _residual(scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (C, b) -> the cross-entropies (b,), and (C, b) probability minus one-hot label.

    The class dimension comes first, so that softmax runs over contiguous rows. Of labels (b, C) the cross-entropies are
    summed over the classes.
    """
    if labels.ndim == 2:
        signed = labels.T * scores
        return -(labels.T.abs() * logsigmoid(signed)).sum(0), -labels.T * torch.sigmoid(-signed)
    rows = torch.arange(len(labels), device=labels.device)
    highest = scores.amax(0)
    residual = (scores - highest).exp_()
    total = residual.sum(0)
    losses = total.log() + highest - scores[labels, rows]
    residual /= total
    residual[labels, rows] -= 1
    return losses, residual


def _curvature(x: torch.Tensor, labels: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """x (b, d + 1), residual (C, b) -> (d + 1, d + 1): the sum over images of a Hessian that all classes share.

    Per image it takes the mean over classes of p (1 - p), the diagonal of the true Hessian's class block.
    """
    p = residual.abs() if labels.ndim == 2 else residual.clone()
    if labels.ndim == 1:
        p[labels, torch.arange(len(labels), device=labels.device)] += 1
    share = (p * (1 - p)).mean(0)
    return x.T @ (x * share[:, None])


class _Line(Protocol):
    """The way from a weight along a direction."""

    def at(self, step: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy after a step, and its slope there along the direction; scalars on the device."""

    def gradient(self) -> torch.Tensor:
        """(C, d + 1) of the mean cross-entropy at the step last looked at, which becomes the next line's beginning."""


class _Images(Protocol):
    """What the data say of weights (C, d + 1), their last column the biases, the penalty left out."""

    def begin(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean cross-entropy (a scalar), its gradient (C, d + 1), the model of its Hessian (d + 1, d + 1)."""

    def line(self, weight: torch.Tensor, direction: torch.Tensor) -> _Line:
        """From where `begin` or the last line ended."""


class _Kept:
    """All images' scores (C, n) in memory."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor | None) -> None:
        self.x, self.labels = _extended(x if rows is None else x[rows]), labels if rows is None else labels[rows]
        self.scores = x.new_zeros(0)

    def begin(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.scores = weight @ self.x.T
        losses, residual = _residual(self.scores, self.labels)
        return losses.mean(), self.gradient(residual), _curvature(self.x, self.labels, residual) / len(self.x)

    def gradient(self, residual: torch.Tensor) -> torch.Tensor:
        return residual @ self.x / len(self.x)

    def line(self, weight: torch.Tensor, direction: torch.Tensor) -> _Line:
        return _KeptLine(self, direction @ self.x.T)


class _KeptLine:
    def __init__(self, images: _Kept, along: torch.Tensor) -> None:
        self.images, self.along = images, along
        self.scores = self.residual = along

    def at(self, step: float) -> tuple[torch.Tensor, torch.Tensor]:
        self.scores = self.images.scores + step * self.along
        losses, self.residual = _residual(self.scores, self.images.labels)
        return losses.mean(), (self.residual * self.along).sum() / len(self.images.x)

    def gradient(self) -> torch.Tensor:
        self.images.scores = self.scores
        return self.images.gradient(self.residual)


class _Chunks:
    """Everything is computed anew from chunks of images."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor | None) -> None:
        self.x, self.labels, self.rows = x, labels, rows
        self.count = len(x) if rows is None else len(rows)

    def _parts(self, weight: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """x (b, d + 1), labels, cross-entropies (b,) and residuals (C, b)."""
        size = max(1, CHUNK // max(weight.shape))
        for start in range(0, self.count, size):
            part: slice | torch.Tensor = slice(start, min(start + size, self.count))
            part = part if self.rows is None else self.rows[part]
            x, labels = _extended(self.x[part]), self.labels[part]
            yield x, labels, *_residual(weight @ x.T, labels)

    def begin(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model = weight.new_zeros(weight.shape[1], weight.shape[1])
        loss, gradient = self.sums(weight, model)
        return loss, gradient, model / self.count

    def sums(self, weight: torch.Tensor, model: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean cross-entropy and its gradient; the images' curvature is added to `model`."""
        loss, gradient = weight.new_zeros(()), torch.zeros_like(weight)
        for x, labels, losses, residual in self._parts(weight):
            loss += losses.sum()
            gradient.addmm_(residual, x)
            if model is not None:
                model += _curvature(x, labels, residual)
        return loss / self.count, gradient / self.count

    def line(self, weight: torch.Tensor, direction: torch.Tensor) -> _Line:
        return _ChunkedLine(self, weight, direction)


class _ChunkedLine:
    def __init__(self, images: _Chunks, weight: torch.Tensor, direction: torch.Tensor) -> None:
        self.images, self.weight, self.direction = images, weight, direction
        self._gradient = direction

    def at(self, step: float) -> tuple[torch.Tensor, torch.Tensor]:
        loss, self._gradient = self.images.sums(self.weight + step * self.direction)
        return loss, (self._gradient * self.direction).sum()

    def gradient(self) -> torch.Tensor:
        return self._gradient


@dataclass
class _Penalty:
    """penalty / 2 * |weights without biases|²."""

    strength: float

    def product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.strength * (a[:, :-1] * b[:, :-1]).sum()

    def add(self, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """To the gradient of the cross-entropy (C, d + 1), in place."""
        gradient[:, :-1] += self.strength * weight[:, :-1]
        return gradient

    def factor(self, model: torch.Tensor) -> torch.Tensor:
        """Cholesky factor of the Hessian's model (d + 1, d + 1)."""
        ridge = torch.full_like(model[0], self.strength)
        ridge[-1] = 0
        # Where all images are certain the model is singular to rounding; the floor changes speed, not the optimum.
        return torch.linalg.cholesky(model + torch.diag(ridge + 1e-13 * model.diagonal().max().clamp_min(1e-30)))


def _read(*scalars: torch.Tensor) -> list[float]:
    """Their values, the device being waited for once."""
    return torch.stack(scalars).tolist()


def _minimise(
    images: _Images, strength: float, weight: torch.Tensor, tolerance: float, max_iterations: int
) -> tuple[torch.Tensor, float, int, bool]:
    penalty = _Penalty(strength)
    mean, gradient, model = images.begin(weight)
    gradient, factor = penalty.add(gradient, weight), penalty.factor(model)
    loss, steepest = _read(mean + penalty.product(weight, weight) / 2, gradient.abs().max())
    pairs: deque[_Pair] = deque(maxlen=MEMORY)
    for iteration in range(max_iterations):
        if steepest <= tolerance:
            return weight, loss, iteration, True
        direction = -_inverse_hessian(gradient, pairs, factor)
        (slope,) = _read((gradient * direction).sum())
        if slope >= 0:  # rounding has the last word
            return weight, loss, iteration, True
        line = images.line(weight, direction)
        step, new_loss = _line_search(line, penalty, weight, direction, loss, slope)
        if loss - new_loss <= FLAT * max(abs(loss), abs(new_loss), 1.0):
            return weight, loss, iteration, True
        new_weight = weight + step * direction
        new_gradient = penalty.add(line.gradient(), new_weight)
        change, moved = new_gradient - gradient, new_weight - weight
        product = (change * moved).sum()
        curved, steepest = _read(product, new_gradient.abs().max())
        if curved > 0:
            pairs.append((moved, change, 1 / product))
        weight, gradient, loss = new_weight, new_gradient, new_loss
    return weight, loss, max_iterations, False


#: A step, the change of the gradient over it, and one over their product; the last a scalar on the device.
_Pair = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _inverse_hessian(gradient: torch.Tensor, pairs: deque[_Pair], factor: torch.Tensor) -> torch.Tensor:
    """The two loops of L-BFGS around the model's inverse, (C, d + 1) -> (C, d + 1)."""
    q, weights = gradient.clone(), []
    for moved, change, rho in reversed(pairs):
        weights.append(rho * (moved * q).sum())
        q -= weights[-1] * change
    r = torch.cholesky_solve(q.T, factor).T
    if pairs:  # the model's scale, corrected by the newest pair (Nocedal and Wright, equation 7.20)
        _, change, rho = pairs[-1]
        r = r / (rho * (change * torch.cholesky_solve(change.T, factor).T).sum())
    for moved, change, rho in pairs:
        r = r + (weights.pop() - rho * (change * r).sum()) * moved
    return r


def _line_search(
    line: _Line, penalty: _Penalty, weight: torch.Tensor, direction: torch.Tensor, loss: float, slope: float
) -> tuple[float, float]:
    """A step that lowers the loss and flattens its slope, with the loss there.

    The loss is convex: the sign of the slope says on which side of the minimum a step ends, so that bisection cannot
    fail and the secant of the slopes guides it.
    """
    low, high = (0.0, slope), None
    step = 1.0
    for _ in range(30):
        moved = weight + step * direction
        mean, along = line.at(step)
        reached, there = _read(mean + penalty.product(moved, moved) / 2, along + penalty.product(moved, direction))
        if reached <= loss and abs(there) <= SLOPE * abs(slope):
            break
        if there > 0 or reached > loss:
            high = step, there
        else:
            low = step, there
        if high is None:
            step *= 4
        else:
            width = high[0] - low[0]
            secant = low[0] - low[1] * width / (high[1] - low[1]) if high[1] > low[1] else 0.0
            step = min(max(secant, low[0] + 0.1 * width), high[0] - 0.1 * width)
    return step, reached
