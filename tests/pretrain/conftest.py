"""Fixtures of pretraining's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dinobench import runtime


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch, for tests that fork or whose tensors are too small to share among threads."""
    with runtime.one_thread():
        yield
