"""What protocols compute with: tensors and arrays in, tensors and arrays out; no files, no context."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["Whitening", "first_masks", "fit_path", "gem", "lost", "propagate", "search", "tokencut"]

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
    },
)
