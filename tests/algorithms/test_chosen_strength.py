"""A regression a class, and the strength that held-out images prefer, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from dinobench.algorithms.chosen_strength import accuracy, choose_and_fit, mean_precision
from dinobench.algorithms.logistic_regression import fit_path
from dinobench.errors import UserError
from dinobench.metrics.robustness import map11


def questions(seed: int, n: int = 60, dim: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, dim) and verdicts (n, classes) of 1, -1 and 0, every class with both answers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    y = np.where(x @ rng.standard_normal((dim, classes)) + rng.standard_normal((n, classes)) > 0, 1, -1)
    y[rng.random((n, classes)) < 0.15] = 0
    y[0], y[1] = 1, -1
    return x, y


def theirs(x: np.ndarray, y: np.ndarray, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(x[y != 0], y[y != 0])


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 1.0, 100.0]))
def test_each_class_is_scikit_learn_s_regression_on_the_images_that_count(seed, c):
    x, y = questions(seed)
    (fit,) = fit_path(torch.from_numpy(x), torch.from_numpy(y).double(), 3, [c])
    assert fit.converged
    for k in range(3):
        model = theirs(x, y[:, k], c)
        assert fit.weight[k].numpy() == pytest.approx(model.coef_[0], rel=1e-3, abs=1e-4)
        assert float(fit.bias[k]) == pytest.approx(float(model.intercept_[0]), rel=1e-3, abs=1e-4)


def test_chunks_of_images_give_the_same(monkeypatch):
    x, y = (torch.from_numpy(part).double() for part in questions(1))
    rows = torch.arange(7, 55)
    (whole,) = fit_path(x, y, 3, [1.0], rows=rows)
    monkeypatch.setattr("dinobench.algorithms.logistic_regression.WHOLE", 10)
    monkeypatch.setattr("dinobench.algorithms.logistic_regression.CHUNK", 60)
    (parts,) = fit_path(x, y, 3, [1.0], rows=rows)
    assert torch.allclose(parts.weight, whole.weight, atol=1e-7) and torch.allclose(parts.bias, whole.bias, atol=1e-7)


def test_the_strength_of_most_precision_is_chosen_and_all_is_fitted():
    x, y = questions(2, n=90)
    parts, strengths = (np.arange(60), np.arange(60, 90)), [1e-4, 1e-2, 1.0, 100.0]
    tx, ty = torch.from_numpy(x), torch.from_numpy(y).double()
    chosen = choose_and_fit(tx, ty, 3, strengths, lambda: parts, lambda fit, held: mean_precision(fit, held, tx, ty))
    values = {}
    for c in strengths:
        scores = np.column_stack([theirs(x[:60], y[:60, k], c).decision_function(x[60:]) for k in range(3)])
        values[c] = map11(scores, y[60:] > 0, y[60:] != 0)
    assert chosen.best == pytest.approx(max(values.values()))
    assert values[chosen.fit.c] == pytest.approx(chosen.best)
    assert chosen.fit.weight[0].numpy() == pytest.approx(theirs(x, y[:, 0], chosen.fit.c).coef_[0], rel=1e-3, abs=1e-4)
    (fit,) = fit_path(tx, ty, 3, [1.0])
    with pytest.raises(UserError, match="none of the 2 images held out"):
        mean_precision(fit, torch.tensor([1, 1]), tx, ty)


def test_one_strength_chooses_nothing():
    x, y = questions(3)
    tx, labels = torch.from_numpy(x), torch.from_numpy((y[:, 0] > 0).astype(np.int64))
    chosen = choose_and_fit(tx, labels, 2, [1.0], lambda: pytest.fail("asked"), accuracy)
    assert np.isnan(chosen.best) and chosen.fit.c == 1.0 and chosen.unfinished == 0
