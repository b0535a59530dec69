"""Images through a backbone, for every protocol: one loop, one service, one cache."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["FeatureService", "extract", "forward_batches", "lost_images", "maps_of", "unit_patches"]

__getattr__ = attach(
    __name__,
    {
        "FeatureService": "service",
        "extract": "extraction",
        "forward_batches": "extraction",
        "lost_images": "extraction",
        "maps_of": "maps",
        "unit_patches": "patches",
    },
)
