"""Images through a backbone, for every protocol: one loop, one service, one cache."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["FeatureService", "extract", "forward_batches"]

__getattr__ = attach(__name__, {"FeatureService": "service", "extract": "extraction", "forward_batches": "extraction"})
