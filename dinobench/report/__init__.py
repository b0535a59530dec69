"""One HTML page of a results folder, and pictures for papers."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["write"]

__getattr__ = attach(__name__, {"write": "page"})
