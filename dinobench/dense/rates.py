"""Learning rates of the released segmentation recipes, one per step of the optimizer."""

from __future__ import annotations

import numpy as np


def poly(rate: float, steps: int, warmup: int, ratio: float) -> np.ndarray:
    """(steps,) float64: linearly to 0 at `steps`, in the first `warmup` steps times a factor rising from `ratio` to 1.

    mmcv's "poly" of power 1 with a linear warm-up by iteration (cfgVOC of DINOv2's release).

    >>> poly(1e-3, 40_000, 1500, 1e-6)[[1500, 20_000]].tolist()
    [0.0009625, 0.0005]
    """
    step = np.arange(steps)
    return rate * (1 - step / steps) * _warmup(step, warmup, ratio)


def one_cycle(rate: float, steps: int, warmup: int, ratio: float) -> np.ndarray:
    """(steps,) float64: the warm-up of `poly`, then half a cosine over *all* steps from its place after the warm-up.

    DINOv3's WarmupOneCycleLR: the cosine is not restarted after the warm-up and is a step ahead, and the scheduler is
    not stepped after the first step, so that the first two steps share a rate.

    >>> one_cycle(1e-3, 40_000, 1500, 1e-6)[[20_000]].tolist()
    [0.0005]
    """
    step = np.maximum(np.arange(steps) - 1, 0)
    cosine = (1 + np.cos(np.pi * (step + 1) / steps)) / 2
    return rate * np.where(step < warmup, (1 - step / steps) * _warmup(step, warmup, ratio), cosine)


def _warmup(step: np.ndarray, warmup: int, ratio: float) -> np.ndarray:
    if not warmup:
        return np.ones(len(step))
    return 1 - np.clip(1 - step / warmup, 0, None) * (1 - ratio)
