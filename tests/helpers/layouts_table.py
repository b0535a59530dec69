"""Files as the programs of the field write them: read as a user would, beside what those programs compute.

Modules `helpers.families_*` hold the cases, `cases() -> list[Case]`; docs/checkpoints.md holds the table.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from helpers.paths import TESTS

from dinobench.errors import UserError
from dinobench.models.loading import load_backbone

DOCS = TESTS.parent / "docs" / "checkpoints.md"
BEGIN, END = "<!-- layouts -->\n", "<!-- /layouts -->\n"


@dataclass(frozen=True)
class Written:
    """A file as written, the options that it is read with, images (B, 3, H, W), and their features (B, D)."""

    path: Path
    x: torch.Tensor | None = None
    features: torch.Tensor | None = None
    attention: torch.Tensor | None = None
    patches: torch.Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One way of writing a family. `how` is "by itself", "--arch NAME" (or another option), or "refused: WORDS"."""

    family: str
    layout: str
    how: str
    build: Callable[[Path], Written]

    @property
    def name(self) -> str:
        return f"{self.family}, {self.layout}, {self.how}"


def all_cases() -> list[Case]:
    modules = sorted(path.stem for path in (TESTS / "helpers").glob("families_*.py"))
    return [case for name in modules for case in importlib.import_module(f"helpers.{name}").cases()]


def row(case: Case, folder: Path) -> tuple[str, str, str, str]:
    """Read the file as a user does: family, layout, how it is recognised, the largest difference as a power of ten."""
    written = case.build(folder)
    if case.how.startswith("refused"):
        try:
            load_backbone(written.path, **written.options)
        except UserError as error:
            words = case.how.removeprefix("refused").removeprefix(": ")
            assert words in str(error) and "\n" not in str(error), error
            return case.family, case.layout, "refused", "-"
        raise AssertionError(f"{case.name}: was read")
    backbone = load_backbone(written.path, **written.options)
    assert written.x is not None and written.features is not None
    difference = _largest(backbone.features(written.x), written.features)
    if written.patches is not None:
        difference = max(difference, _largest(backbone.layers(written.x)[-1][1], written.patches))
    if written.attention is not None:
        difference = max(difference, _largest(backbone.cls_attention(written.x), written.attention))
    return case.family, case.layout, case.how, bound(difference)


def _largest(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative to the largest value, where that is more than 1."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float((found - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def bound(difference: float) -> str:
    """A power of ten above, no less than 1e-5, so that the table does not change from machine to machine.

    >>> bound(0.0), bound(3e-6), bound(2e-5), bound(0.3)
    ('< 1e-5', '< 1e-5', '< 1e-4', '< 1e+0')
    """
    return f"< 1e{max(-5, math.floor(math.log10(difference)) + 1 if difference > 0 else -5):+d}"


def table(rows: list[tuple[str, str, str, str]]) -> str:
    lines = ["| family | as written by | read | largest difference |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(cells)} |" for cells in sorted(rows, key=lambda r: r[0].lower())]) + "\n"
