"""Examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest
from helpers.paths import ROOT

PACKAGES = {"dinobench": "dinobench", "protocols": "dinobench.protocols", "pretrain": "dinobench.pretrain"}


def modules() -> list[str]:
    names = []
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if ">>> " in path.read_text(encoding="utf-8") and parts[-1] != "__init__":
                names.append(".".join((package, *parts)))
    return names


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried and not failed
