from __future__ import annotations

import numpy as np
import pytest

from dinobench.stats.intervals import student_interval
from dinobench.stats.stratified import stratified_interval


def test_one_class_is_students_over_clusters():
    rng = np.random.default_rng(0)
    scores, clusters = rng.random(60), rng.integers(0, 12, 60)
    sums, sizes = np.bincount(clusters, scores), np.bincount(clusters).astype(float)
    found = stratified_interval(scores, np.zeros(60), clusters)
    assert found == pytest.approx(student_interval(sums, sizes, 0.95))


def test_weights_and_borders():
    scores, strata, clusters = np.r_[np.ones(20), np.arange(20) % 2], np.repeat(["a", "b"], 20), np.arange(40)
    low, high = stratified_interval(scores, strata, clusters)
    assert (low + high) / 2 == pytest.approx(0.75)
    low, high = stratified_interval(scores, strata, clusters, np.array([3, 1]))
    assert (low + high) / 2 == pytest.approx(0.875)
    assert stratified_interval(scores, strata, strata) is None  # a cluster a class says nothing
    low, high = stratified_interval(np.ones(40), strata, clusters)
    assert high == 1 and 0.85 < low < 1
    low, high = stratified_interval(np.zeros(40), strata, clusters)
    assert low == 0 and 0 < high < 0.15


def test_it_holds_the_truth_as_often_as_it_says():
    """Three classes of unequal size and difficulty, points of an image alike."""
    rng = np.random.default_rng(1)
    images, points = (20, 30, 40), (4, 9, 6)
    mean, held, trials = np.mean([2 / 3, 0.5, 2 / 7]), 0, 1000
    strata = np.repeat(range(3), [n * m for n, m in zip(images, points, strict=True)])
    clusters = np.concatenate([np.repeat(range(n), m) for n, m in zip(images, points, strict=True)])
    for _ in range(trials):
        ease = [rng.beta(2, b, n) for b, n in zip((1, 2, 5), images, strict=True)]
        scores = rng.random(len(strata)) < np.concatenate([np.repeat(e, m) for e, m in zip(ease, points, strict=True)])
        low, high = stratified_interval(scores, strata, clusters)
        held += low <= mean <= high
    assert 0.93 <= held / trials <= 0.975
