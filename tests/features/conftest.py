"""The feature service as one run of the command makes it."""

from __future__ import annotations

import pytest

from dinobench import runtime
from dinobench.features.service import FeatureService


@pytest.fixture(scope="module")
def cpu():
    return runtime.start("cpu")


@pytest.fixture
def service(cpu, tmp_path):
    """A fresh service on this test's cache, as another run of the command would make it."""
    return lambda **kwargs: FeatureService(cpu, tmp_path / "features", **{"batch_size": 4, "workers": 2, **kwargs})
