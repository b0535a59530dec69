"""What is made of records: tables, paired tests, the gate, explanations."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["ablate", "compare", "published_scores"]

__getattr__ = attach(__name__, {"compare": "table", "ablate": "ablation", "published_scores": "published"})
