"""Annotations in JSON that came with images, of which nothing is believed before it is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dinobench.errors import UserError
from dinobench.files import read_regular


def read_json(file: Path, largest: int) -> Any:
    """What a file of at most `largest` bytes holds. Raises UserError where it is larger, or no JSON."""
    try:
        return json.loads(read_regular(file, largest))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error}); download the annotations again") from error


def numbers(values: Any, count: int, limit: float) -> np.ndarray | None:
    """So many numbers (count,) float64, each smaller in magnitude than `limit`, or None for anything else.

    >>> numbers([1, 2.5], 2, 1e6), numbers([1, float("nan")], 2, 1e6), numbers([True], 1, 1e6)
    (array([1. , 2.5]), None, None)
    """
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < limit for v in values):
        return None  # NaN is not below anything
    return np.array(values, np.float64)
