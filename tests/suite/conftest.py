"""Suites whose models are remembered, so that plans read no weights and import no torch."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.samples import INFO

from dinobench import files
from dinobench.results import known_runs
from dinobench.suite.file import read
from dinobench.types import LoadOptions

ALL = ("features", "layers", "patches", "attention", "keys", "map")


@pytest.fixture
def remembered(tmp_path, monkeypatch, own_cache):
    """Makes a checkpoint that was read before: its name, its path, what it can do, seeds it was read by."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "SETTLED_NS", -(10**12))

    def make(name, path, capabilities=ALL, seeds=(0,), arch="vit_fake", loading=LoadOptions()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(name.encode())
        info = dataclasses.replace(INFO, name=name, path=path, arch=arch, weights_digest=f"{name:f<64}")
        for seed in seeds:
            sight = known_runs.look_again(path, name=name, seed=seed, **vars(loading))
            known_runs.remember(sight, info, capabilities)
        return info

    return make


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Reads a suite's text, as `s.toml` in this test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DINOBENCH_DATA", raising=False)

    def call(text, **options):
        (tmp_path / "s.toml").write_text(text, encoding="utf-8")
        return read("s.toml", **options)

    return call
