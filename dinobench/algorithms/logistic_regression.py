"""L2-regularised multinomial logistic regression in double precision, for many strengths of regularisation in a row.

L-BFGS (Nocedal and Wright 2006, Numerical Optimization, algorithm 7.4) with two changes that matter: its first inverse
Hessian is that of a quadratic model at the starting point instead of a multiple of the identity, and every strength
starts from its neighbour's solution. Along a search direction the scores are linear, so that an iteration costs two
passes over the data however often the line search looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

#: Pairs of steps and gradient changes that L-BFGS remembers.
MEMORY = 20
#: The loss no longer falls when it falls by less than so many rounding errors, as scikit-learn has it for lbfgs.
FLAT = 64 * torch.finfo(torch.float64).eps
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


def fit_path(
    x: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    strengths: Sequence[float],
    *,
    tolerance: float = 1e-12,
    max_iterations: int = 1000,
    start: Fit | None = None,
) -> Iterator[Fit]:
    """Fit x (n, d) float64 with labels (n,) for every c of `strengths`, best given in ascending order.

    c is the inverse of the regularisation, as scikit-learn's C; biases are not regularised; with two classes there are
    still two rows of weights. A fit ends when no gradient of `loss` exceeds `tolerance`, when the loss is flat to
    rounding, or after `max_iterations`.

    Raises ValueError for a strength that is not above 0.
    """
    if min(strengths) <= 0:
        raise ValueError(f"strengths {min(strengths)} and the like regularise without end; they are above 0")
    # A constant column for the biases. The class dimension comes first, so that softmax runs over contiguous rows.
    extended = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    weight = x.new_zeros(classes, extended.shape[1])
    if start is not None:
        weight = torch.cat([start.weight, start.bias[:, None]], dim=1).to(x)
    for c in strengths:
        problem = _Problem(extended, labels, 1 / (c * len(x)))
        weight, loss, iterations, converged = _minimise(problem, weight, tolerance, max_iterations)
        yield Fit(c, weight[:, :-1].clone(), weight[:, -1].clone(), loss, iterations, converged)


@dataclass
class _Problem:
    """Mean cross-entropy + penalty / 2 * |weights without biases|²; x (n, d + 1), its last column ones."""

    x: torch.Tensor
    labels: torch.Tensor
    penalty: float

    def __post_init__(self) -> None:
        self.rows = torch.arange(len(self.x), device=self.x.device)

    def scores(self, weight: torch.Tensor) -> torch.Tensor:
        """(C, d + 1) -> (C, n)."""
        return weight @ self.x.T

    def penalised(self, a: torch.Tensor, b: torch.Tensor) -> float:
        return self.penalty * float((a[:, :-1] * b[:, :-1]).sum())

    def loss(self, scores: torch.Tensor, weight: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The loss, and (C, n) the residual: probability minus one-hot label."""
        highest = scores.amax(0)
        residual = (scores - highest).exp_()
        total = residual.sum(0)
        loss = float((total.log() + highest - scores[self.labels, self.rows]).mean())
        residual /= total
        residual[self.labels, self.rows] -= 1
        return loss + self.penalised(weight, weight) / 2, residual

    def gradient(self, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """(C, n), (C, d + 1) -> (C, d + 1)."""
        gradient = residual @ self.x / len(self.x)
        gradient[:, :-1] += self.penalty * weight[:, :-1]
        return gradient

    def curvature(self, residual: torch.Tensor) -> torch.Tensor:
        """Cholesky factor (d + 1, d + 1) of a model of the Hessian that all classes share.

        Per image it takes the mean over classes of p (1 - p), the diagonal of the true Hessian's class block.
        """
        p = residual.clone()
        p[self.labels, self.rows] += 1
        share = (p * (1 - p)).mean(0)
        model = self.x.T @ (self.x * share[:, None]) / len(self.x)
        ridge = torch.full_like(model[0], self.penalty)
        ridge[-1] = 0
        # Where all images are certain the model is singular to rounding; the floor changes speed, not the optimum.
        return torch.linalg.cholesky(model + torch.diag(ridge + 1e-13 * model.diagonal().max().clamp_min(1e-30)))


def _minimise(
    problem: _Problem, weight: torch.Tensor, tolerance: float, max_iterations: int
) -> tuple[torch.Tensor, float, int, bool]:
    scores = problem.scores(weight)
    loss, residual = problem.loss(scores, weight)
    gradient = problem.gradient(residual, weight)
    factor = problem.curvature(residual)
    pairs: deque[tuple[torch.Tensor, torch.Tensor, float]] = deque(maxlen=MEMORY)
    for iteration in range(max_iterations):
        if float(gradient.abs().max()) <= tolerance:
            return weight, loss, iteration, True
        direction = -_inverse_hessian(gradient, pairs, factor)
        slope = float((gradient * direction).sum())
        if slope >= 0:  # rounding has the last word
            return weight, loss, iteration, True
        along = problem.scores(direction)
        step, new_loss, residual = _line_search(problem, weight, scores, direction, along, loss, slope)
        if loss - new_loss <= FLAT * max(abs(loss), abs(new_loss), 1.0):
            return weight, loss, iteration, True
        new_weight = weight + step * direction
        new_gradient = problem.gradient(residual, new_weight)
        change, moved = new_gradient - gradient, new_weight - weight
        curved = float((change * moved).sum())
        if curved > 0:
            pairs.append((moved, change, 1 / curved))
        scores = scores + step * along
        weight, gradient, loss = new_weight, new_gradient, new_loss
    return weight, loss, max_iterations, False


def _inverse_hessian(
    gradient: torch.Tensor, pairs: deque[tuple[torch.Tensor, torch.Tensor, float]], factor: torch.Tensor
) -> torch.Tensor:
    """The two loops of L-BFGS around the model's inverse, (C, d + 1) -> (C, d + 1)."""
    q, weights = gradient.clone(), []
    for moved, change, rho in reversed(pairs):
        weights.append(rho * float((moved * q).sum()))
        q -= weights[-1] * change
    r = torch.cholesky_solve(q.T, factor).T
    if pairs:  # the model's scale, corrected by the newest pair (Nocedal and Wright, equation 7.20)
        _, change, rho = pairs[-1]
        r = r / (rho * float((change * torch.cholesky_solve(change.T, factor).T).sum()))
    for moved, change, rho in pairs:
        r = r + (weights.pop() - rho * float((change * r).sum())) * moved
    return r


def _line_search(
    problem: _Problem,
    weight: torch.Tensor,
    scores: torch.Tensor,
    direction: torch.Tensor,
    along: torch.Tensor,
    loss: float,
    slope: float,
) -> tuple[float, float, torch.Tensor]:
    """A step that lowers the loss and flattens its slope, with the loss and residual there.

    The loss is convex: the sign of the slope says on which side of the minimum a step ends, so that bisection cannot
    fail and the secant of the slopes guides it.
    """
    low, high = (0.0, slope), None
    step = 1.0
    for _ in range(30):
        moved = weight + step * direction
        reached, residual = problem.loss(scores + step * along, moved)
        there = float((residual * along).sum()) / len(problem.x) + problem.penalised(moved, direction)
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
    return step, reached, residual
