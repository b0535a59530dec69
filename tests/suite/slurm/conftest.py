"""A SLURM of two nodes that stands while its tests run, and a suite's folder to run them in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.plugins import install
from helpers.slurm import Cluster, Unavailable, cluster
from helpers.slurm_suites import PATIENT


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Cluster]:
    pytest.importorskip("submitit", reason="jobs run in an interpreter that has submitit")
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(cluster(nodes=2))
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield made


@pytest.fixture
def slurm(two_nodes: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster with nothing in its queue; commands and jobs of the test's are its own."""
    for name, value in two_nodes.environment.items():
        monkeypatch.setenv(name, value)
    yield two_nodes
    two_nodes.clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a cache and a plug-in, the protocol `patient`, that jobs find too."""
    site = tmp_path / "site"
    install(site, "patient", PATIENT)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
