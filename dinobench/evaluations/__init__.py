"""From what a command asks for to its evaluations: protocols as configured × data sets × backbones."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["Evaluation", "data_by_kind", "evaluations", "parse_profiles", "resolve_configs"]

__getattr__ = attach(
    __name__,
    {
        "Evaluation": "evaluation",
        "data_by_kind": "asked",
        "evaluations": "asked",
        "parse_profiles": "asked",
        "resolve_configs": "asked",
    },
)
