"""Runs that got worse, for the gate."""

from __future__ import annotations

import dataclasses

import numpy as np
from helpers.samples import INFO

from dinobench.types import CheckpointInfo


def flipped(right: np.ndarray, drop: int, seed: int = 0) -> np.ndarray:
    """The same scores with `drop` of the right ones turned wrong."""
    changed = right.copy()
    changed[np.random.default_rng(seed).choice(np.flatnonzero(right), drop, replace=False)] = False
    return changed


def other_weights(name: str) -> CheckpointInfo:
    """A checkpoint called `name` that is not the one that `helpers.runs.run` gives it."""
    return dataclasses.replace(INFO, name=name, weights_digest="9" * 64)
