"""What protocols compute with: tensors and arrays in, tensors and arrays out; no files, no context."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = [
    "DepthHead",
    "Whitening",
    "attend",
    "best_pixels",
    "first_masks",
    "fit_path",
    "gem",
    "lost",
    "match_surfaces",
    "propagate",
    "search",
    "sliding_windows",
    "tokencut",
]

__getattr__ = attach(
    __name__,
    {
        "search": "nearest_neighbours",
        "fit_path": "logistic_regression",
        "propagate": "label_propagation",
        "first_masks": "soft_masks",
        "gem": "descriptors",
        "Whitening": "descriptors",
        "lost": "object_discovery",
        "tokencut": "object_discovery",
        "attend": "incontext",
        "best_pixels": "correspondence",
        "DepthHead": "depth_head",
        "match_surfaces": "surface_matching",
        "sliding_windows": "sliding_window",
    },
)
