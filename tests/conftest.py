"""What every test gets: a cache of its own, its share of the threads, no network."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine may take seconds for what takes milliseconds on another: that is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

_FOLDER = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Before torch is imported, and inherited by the processes that tests start."""
    # A shell's background job, or nohup, has some signals ignored, and every process that a test starts would have too.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    config.stash[_FOLDER] = tempfile.mkdtemp(prefix="dinobench-tests-")
    os.environ["DINOBENCH_CACHE"] = os.path.join(config.stash[_FOLDER], "cache")
    os.environ.pop("DINOBENCH_DATA", None)
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    beside_others = len(config.getoption("tx", None) or ()) > 1  # of pytest-xdist, whose workers inherit these
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1" if beside_others else "2")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command sets it; spinning threads starve each other


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it are skipped without."""
    folder = os.environ.get("DINOBENCH_TEST_DATA")
    if not folder:
        pytest.skip("DINOBENCH_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that no other test has written to."""
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"
