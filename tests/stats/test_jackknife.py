"""Intervals of what is made of sums: known cases, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dinobench.metrics.semantic import class_iou, mean_of
from dinobench.stats.jackknife import jackknife_interval


def mean(sums):
    return sums[:, 0] / sums[:, 1]


@pytest.mark.parametrize("n", [2, 5, 40])
def test_of_a_mean_it_is_students(n):
    scores = np.random.default_rng(n).random(n)
    found = jackknife_interval(np.stack([scores, np.ones(n)], axis=1), mean)
    wanted = stats.t.interval(0.95, n - 1, scores.mean(), stats.sem(scores))
    assert found == pytest.approx(wanted)


def test_of_a_single_item_nothing_is_known():
    assert jackknife_interval(np.ones((1, 2)), mean) is None


def test_it_holds_the_value_itself():
    parts = np.array([[4.0, 4.0], [0.0, 1e-3], [0.0, 1e-3]])
    low, high = jackknife_interval(parts, lambda sums: (sums[:, 0] / sums[:, 1]) ** 64)
    assert low <= (4 / 4.002) ** 64 <= high


def population(rng, images, classes):
    """Areas (images, 3, classes) of images with background and one to three other classes, as VOC's have them."""
    often, skill = rng.dirichlet(np.full(classes - 1, 3.0)), rng.beta(4, 3, classes)
    areas = np.zeros((images, 3, classes))
    for image in areas:
        number = int(rng.integers(1, 4))
        present = np.array([0, *(1 + rng.choice(classes - 1, number, replace=False, p=often))])
        labelled = rng.dirichlet(np.ones(number + 1))
        right = labelled * rng.beta(6 * skill[present], 6 * (1 - skill[present]))
        image[0, present], image[2, present] = right, labelled
        image[1, present] = right
        image[1, 0] += 0.7 * (labelled - right)[1:].sum()  # most of what is missed is taken for background
        np.add.at(image[1], rng.integers(0, classes, number + 1), (labelled - right) * np.array([1, *[0.3] * number]))
    return areas


@pytest.mark.parametrize(("classes", "n"), [(6, 12), (6, 40), (21, 150)])
def test_mean_ious_are_covered(classes, n):
    """95 % but for three standard errors of the simulation's own, where an image shows several of few classes."""
    rng, trials = np.random.default_rng(7), 200

    def miou(sums):
        return mean_of(class_iou(sums))

    everything = population(rng, 3000, classes)
    truth = miou(everything.sum(axis=0)[None])[0]
    held = 0
    for _ in range(trials):
        low, high = jackknife_interval(everything[rng.integers(0, len(everything), n)], miou)
        held += low <= truth <= high
    assert 0.95 - 0.01 - 3 * np.sqrt(0.95 * 0.05 / trials) <= held / trials
