"""Data that come with an installed library, so that everything runs with nothing downloaded."""

from __future__ import annotations

import numpy as np

from dinobench.data.embedded.installed import sample
from dinobench.data.image_split import array_split, from_arrays
from dinobench.types import ImageClassification

NAME = "digits"
TRAIN = 1347  # three quarters of 1,797; in the set's own order, so that there is nothing to seed


def digits(name: str = NAME) -> ImageClassification:
    """scikit-learn's digits as RGB, their 17 grey levels stretched to 0..255."""
    pixels, labels = _table()
    grey = np.rint(pixels * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    ids = tuple(f"digits/{i:04d}" for i in range(len(images)))
    train, test = (
        array_split(split, images[part], ids[part], labels[part])
        for split, part in (("train", slice(None, TRAIN)), ("test", slice(TRAIN, None)))
    )
    return from_arrays(name, NAME, [str(digit) for digit in range(10)], train, test)


def _table() -> tuple[np.ndarray, np.ndarray]:
    """(pixels (1797, 8, 8) float64 0..16, labels (1797,) int64) as `sklearn.datasets.load_digits` gives them."""
    try:
        rows = np.loadtxt(sample("data/digits.csv.gz"), delimiter=",")
    except OSError:  # it may keep them elsewhere one day
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
