from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers.contexts import clusters
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from dinobench.algorithms.logistic_regression import fit_path


def data(n=150, classes=4, dim=12, spread=2.0, seed=0):
    x, y = clusters(n, classes, dim, spread, seed)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return torch.from_numpy(x), torch.from_numpy(y)


def objective(x, y, weight, bias, c):
    """scikit-learn's, per image, written down anew."""
    own = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
    return float(own + (weight**2).sum() / (2 * c * len(x)))


@pytest.mark.parametrize("classes", [3, 10])
def test_meets_scikit_learns_optimum(classes):
    x, y = data(classes=classes)
    strengths = np.geomspace(1e-6, 1e5, 12).tolist()
    for fit in fit_path(x, y, classes, strengths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs = LogisticRegression(C=fit.c, max_iter=1000, tol=1e-12).fit(x.numpy(), y.numpy())
        reached = objective(x, y, torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_), fit.c)
        assert fit.converged and fit.loss == pytest.approx(objective(x, y, fit.weight, fit.bias, fit.c), abs=1e-12)
        assert fit.loss <= reached + 1e-9, "a worse optimum than scikit-learn's"
        assert fit.loss == pytest.approx(reached, abs=1e-4)
        if fit.c < 1e3:
            np.testing.assert_allclose(fit.scores(x).softmax(1), theirs.predict_proba(x.numpy()), atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(2, 6), st.sampled_from([1e-4, 1.0, 1e4]))
def test_the_gradient_vanishes_at_the_solution(seed, classes, c):
    x, y = data(n=40, classes=classes, dim=5, seed=seed)
    (fit,) = fit_path(x, y, classes, [c])
    weight, bias = fit.weight.requires_grad_(), fit.bias.requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + (weight**2).sum() / (2 * c * len(x))
    loss.backward()
    # Where the loss is flat to its last digits the fit ends: at the square root of that the gradient may still stand.
    assert float(weight.grad.abs().max()) < 1e-5 and float(bias.grad.abs().max()) < 1e-5


def test_the_start_changes_the_way_and_not_the_end():
    x, y = data()
    cold = {f.c: f for c in (1e-3, 1.0, 1e3) for f in fit_path(x, y, 4, [c])}
    for fit in fit_path(x, y, 4, [1e-3, 1.0, 1e3]):
        assert fit.loss == pytest.approx(cold[fit.c].loss, abs=1e-10)
    (again,) = fit_path(x, y, 4, [1.0], start=cold[1.0])
    assert again.iterations <= 2 and torch.allclose(again.weight, cold[1.0].weight, atol=1e-5)


def test_iterations_end_and_bad_strengths_are_refused():
    x, y = data()
    (short,) = fit_path(x, y, 4, [1e4], max_iterations=3)
    assert (short.iterations, short.converged) == (3, False)
    with pytest.raises(ValueError, match="above 0"):
        next(fit_path(x, y, 4, [0.0]))


def test_collinear_features_and_lost_columns_are_no_obstacle():
    x, y = data()
    flat = torch.cat([x, x[:, :3], torch.zeros(len(x), 2, dtype=x.dtype), 50 + 1e-3 * x], dim=1)
    for fit in fit_path(flat, y, 4, [1e-6, 1.0, 1e5]):
        assert np.isfinite(fit.loss) and fit.weight.isfinite().all()
