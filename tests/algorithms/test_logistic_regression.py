from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers.contexts import clusters
from helpers.host_reads import HostReads
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dinobench.algorithms import logistic_regression
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


@pytest.fixture
def chunked(monkeypatch):
    """Scores are not kept, and chunks hold 11 images of 13 columns."""
    monkeypatch.setattr(logistic_regression, "WHOLE", 0)
    monkeypatch.setattr(logistic_regression, "CHUNK", 11 * 13)


@pytest.mark.parametrize("classes", [2, 10])
def test_chunks_of_images_end_where_all_at_once_end(monkeypatch, classes):
    x, y = data(n=97, classes=classes)
    rows, strengths = torch.randperm(97, generator=torch.Generator().manual_seed(0))[:80], [1e-4, 1.0, 1e3]
    whole = list(fit_path(x, y, classes, strengths, rows=rows))
    copied = list(fit_path(x[rows], y[rows], classes, strengths))
    monkeypatch.setattr(logistic_regression, "WHOLE", 0)
    monkeypatch.setattr(logistic_regression, "CHUNK", 11 * 13)
    chunks, again = (list(fit_path(x, y, classes, strengths, rows=rows)) for _ in range(2))
    for one, same, other, twice in zip(whole, copied, chunks, again, strict=True):
        assert torch.equal(one.weight, same.weight)
        assert torch.equal(other.weight, twice.weight), "the order of the sums is always the same"
        assert other.loss == pytest.approx(one.loss, abs=1e-12) and other.converged
        torch.testing.assert_close(other.weight, one.weight, rtol=1e-5, atol=1e-6)


def test_no_array_of_images_times_classes(chunked):
    """Neither in the fit nor in its scores, whatever the number of classes."""
    x, y = data(n=220, classes=50)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            largest = max(largest, *(t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor)), 0)
            return made

    with Sizes():
        (fit,) = fit_path(x, y, 50, [1.0], max_iterations=3)
        logistic_regression.WHOLE = 2 * 50 * 10
        parts = [(part, scores) for part, scores in fit.scored(x)]
    assert largest <= x.numel() + 50 * 13 < 220 * 50
    assert [part.stop - part.start for part, _ in parts] == [10] * 22
    torch.testing.assert_close(torch.cat([scores for _, scores in parts]), fit.scores(x))


def test_the_device_is_read_a_few_times_an_iteration():
    """A GPU would wait at each; there were some forty."""
    x, y = data()
    with HostReads() as reads:
        (fit,) = fit_path(x, y, 4, [1.0], max_iterations=20)
    assert len(reads) <= 4 * fit.iterations + 4, reads
